"""Guidance in an interval of the steps only (Kynkäänniemi et al., 2024): outside it a U-Net call costs half.

--guidance-interval 0:1       all steps, as the paper
--guidance-interval 0.2:0.8   of 50 U-Net calls those numbered 10 to 39, counted from 0
"""

Interval = tuple[float, float]
"""From and to, as fractions of the U-Net calls; the end is not in it."""
ALL_STEPS: Interval = (0.0, 1.0)


def parse_interval(text: str) -> Interval:
    """An interval from FROM:TO.

    Raises:
        ValueError: of another form, or not 0 <= FROM < TO <= 1.
    """
    first, _, last = text.partition(":")
    try:
        interval = float(first), float(last)
    except ValueError:
        interval = (0.0, 0.0)
    if not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(
            f"--guidance-interval is {text!r}, but must be FROM:TO with 0 <= FROM < TO <= 1, such as 0.2:0.8"
        )
    return interval


def guided_steps(interval: Interval, num_calls: int) -> list[bool]:
    """Which of a solver's U-Net calls are made with guidance."""
    return [interval[0] * num_calls <= number < interval[1] * num_calls for number in range(num_calls)]
