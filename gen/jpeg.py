"""Images as JPEG bytes; generated ones say so in their metadata.

A generated image carries an XMP packet with IPTC's digital source type "trained algorithmic media" (IPTC Photo Metadata
Standard, property Iptc4xmpExt:DigitalSourceType), by which search engines and C2PA tools know it. The packet is constant:
the same pixels give the same bytes, and every file grows by the same `TAG_BYTES`.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

OPTIONS: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
GENERATED_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'  # the two processing instructions that XMP Part 1 asks for
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
).encode()
TAG_BYTES = 33 + len(GENERATED_XMP)
"""What the tag adds to a file: APP1 marker (2), length (2), the XMP signature with its NUL (29), the packet."""

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises for truncated and malformed files, and for those that claim to be huge."""


def encode(image_HWC: np.ndarray, quality: int = OPTIONS["quality"], *, generated: bool = True) -> bytes:
    """JPEG bytes of a uint8 image, decoded once to be sure: one bad JPEG stops a training pipeline for good.

    Args:
        image_HWC: uint8.
        quality: 1 to 100.
        generated: tag the file as made by a trained model; False for real photographs and scans.
    """
    buffer = io.BytesIO()
    tag: dict[str, Any] = {"xmp": GENERATED_XMP} if generated else {}
    Image.fromarray(image_HWC).save(buffer, **OPTIONS | tag | {"quality": quality})
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        image.load()
    return buffer.getvalue()
