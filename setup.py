"""Package map: the top-level folders become sub-packages of `synthclone`, so that
installing it puts no package called `eval` or `train` into anybody's Python.

Versions here are ranges; `constraints.txt` holds the exact set that the tests run on.
"""

from pathlib import Path

from setuptools import setup

FOLDERS = ["export", "engines", "gen", "train", "eval", "bench"]

setup(
    name="synthclone",
    version="0.1.0",
    description="Clone an image-classification dataset from its class names, with compiled diffusion engines.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=["synthclone", *(f"synthclone.{folder}" for folder in FOLDERS)],
    package_dir={"synthclone": "synthclone", **{f"synthclone.{folder}": folder for folder in FOLDERS}},
    package_data={
        "synthclone.train": ["*.yaml"],
        "synthclone.engines": ["data/*"],
        "synthclone.export": ["data/sd1/*/*.json"],
        "synthclone.gen": ["data/*", "data/classes/*", "models/*.py", "models/digits/*", "models/digits/*/*"],
    },
    install_requires=[
        "torch>=2.9",
        "diffusers>=0.35",
        "transformers>=4.57",
        "safetensors>=0.5",
        "onnx>=1.19",
        "onnxscript>=0.5",
        "onnx-ir>=0.1",
        "numpy>=2.0",
        "numba>=0.62",
        "scikit-learn>=1.6",
        "pillow>=11",
        "nltk>=3.9",
        "jsonargparse[signatures]>=4.40",
        "docstring-parser>=0.16",
        "pyyaml>=6",
        "tqdm>=4.66",
        "deepspeed>=0.18",
    ],
    extras_require={
        "gpu": ["tensorrt>=10.3", "nvidia-dali-cuda130>=2.0", "onnxruntime-gpu>=1.20"],
        "cpu": ["nvidia-dali-cuda130>=2.0", "onnxruntime>=1.20"],
        "ray": ["ray>=2.40"],
        "dev": ["pytest>=8", "hypothesis>=6", "ruff>=0.9", "mypy>=1.14"],
    },
    entry_points={"console_scripts": ["synthclone=synthclone.cli:main"]},
)
