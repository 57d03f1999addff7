"""Package map: the top-level folders become sub-packages of `synthclone`, so that
installing it puts no package called `eval` or `train` into anybody's Python.

Versions here are ranges; `constraints.txt` holds the exact set that the tests run on.
"""

from pathlib import Path

from setuptools import setup

FOLDERS = ["export", "engines", "gen", "train", "eval", "bench", "configs"]

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
        "synthclone.configs": ["*.yaml"],
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
        "fsspec>=2024.6",
        "deepspeed>=0.18",
    ],
    extras_require={
        "gpu": ["tensorrt>=10.3", "nvidia-dali-cuda130>=2.0", "onnxruntime-gpu>=1.20"],
        "cpu": ["nvidia-dali-cuda130>=2.0", "onnxruntime>=1.20"],
        "quality": ["torchmetrics>=1.4", "matplotlib>=3.9"],
        "s3": ["s3fs>=2024.6"],
        "gs": ["gcsfs>=2024.6"],
        "hf": ["huggingface_hub>=0.30"],
        "ray": ["ray>=2.40"],
        "quantization": ["nvidia-modelopt>=0.47"],
        "dev": [
            "pytest>=8",
            "hypothesis>=6",
            "ruff>=0.9",
            "mypy>=1.14",
            "mlcroissant>=1.0",
            "psutil>=5.9",
            "ray>=2.40",
            "s3fs>=2024.6",
            "boto3>=1.34",
            "moto[s3]>=5",
            "gcsfs>=2024.6",
            "gcp-storage-emulator>=2024.8",
            "flask>=3",
            "flask-cors>=5",
            "webdataset>=1.0",
            "nvidia-modelopt>=0.47",
        ],
    },
    entry_points={"console_scripts": ["synthclone=synthclone.cli:main"]},
)
