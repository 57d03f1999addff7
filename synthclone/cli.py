"""`synthclone VERB ARGS`: finds the verb's module and hands the arguments over. Every verb is also a file of its own."""

import importlib
import sys
from collections.abc import Sequence

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help"}:
        print(usage())
        return 0 if words else 2
    if words[0] not in VERBS:
        print(f"synthclone: error: unknown verb {words[0]!r}; valid verbs: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(VERBS[words[0]][0]).command(words[1:])
    except KeyboardInterrupt:  # while the module is imported, which takes seconds; a command sees to its own
        print(f"synthclone {words[0]}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
