"""Label a folder of images with the help of the model that learns from the labels."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "demo_app"))  # for images.py, ocr.py and others
