"""`synthclone VERB ARGS`: finds the verb's module and hands the arguments over. Every verb is also a file of its own."""

import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

VERBS = {
    "build": ("synthclone.export.build", "compile a Stable Diffusion checkpoint into engines"),
    "engines": ("synthclone.export.list_engines", "list compiled engines"),
    "refit": ("synthclone.export.refit", "put other weights into a built TensorRT engine"),
    "plan": ("synthclone.gen.plan_report", "print what a generation would make and cost"),
    "prompts": ("synthclone.gen.write_prompts", "write prompts of a class list, to calibrate a quantized U-Net with"),
    "generate": ("synthclone.gen.generate", "generate a sharded data set from class names"),
    "preview": ("synthclone.gen.preview", "make an HTML gallery of data sets"),
    "verify": ("synthclone.gen.verify", "read a data set again, say what is wrong, and repair it"),
    "merge": ("synthclone.gen.merge", "join data sets into one"),
    "export": ("synthclone.gen.export_dataset", "write a data set as ImageFolder, WebDataset or for Hugging Face"),
    "train": ("synthclone.train.train", "train a classifier on shards"),
    "eval": ("synthclone.eval.evaluate", "score a classifier on real images"),
    "quality": ("synthclone.eval.quality", "measure how near a synthetic data set is to real images"),
    "quickstart": ("synthclone.quickstart", "do all of it on handwritten digits, in minutes, on a CPU"),
}


def usage() -> str:
    """The list of verbs."""
    lines = [f"  {verb:<12} {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(["usage: synthclone VERB [OPTIONS]    (synthclone VERB --help lists the options)", "", *lines])


@contextmanager
def ctrl_c_ends(verb: str) -> Iterator[None]:
    """Ctrl-C ends the process at once, with one line and exit code 130, for the seconds in which libraries are imported.

    Some of them swallow a KeyboardInterrupt (PyTorch goes on without NumPy), and fail later with something else.
    """

    def stop(signum: int, frame: object) -> None:
        os.write(2, f"synthclone {verb}: interrupted; run the same command again to go on\n".encode())
        os._exit(130)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a background job's is ignored: so be it
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help"}:
        print(usage())
        return 0 if words else 2
    if words[0] not in VERBS:
        print(f"synthclone: error: unknown verb {words[0]!r}; valid verbs: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    with ctrl_c_ends(words[0]):
        module = importlib.import_module(VERBS[words[0]][0])
    return module.command(words[1:])


if __name__ == "__main__":
    sys.exit(main())
