"""JPEG bytes: generated images say so, real ones do not, and the pixels are the same."""

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from synthclone.gen import jpeg

PROPERTY = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@pytest.fixture
def image_HWC():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def test_a_generated_image_says_so(image_HWC):
    with Image.open(io.BytesIO(jpeg.encode(image_HWC))) as image:
        packet = image.info["xmp"]
    assert [node.text for node in ET.fromstring(packet).iter(PROPERTY)] == [SOURCE_TYPE]
    assert packet.startswith('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'.encode())


def test_a_real_image_does_not(image_HWC):
    real = jpeg.encode(image_HWC, generated=False)
    with Image.open(io.BytesIO(real)) as image:
        assert "xmp" not in image.info
    assert b"trainedAlgorithmicMedia" not in real


@pytest.mark.parametrize("shape", [(8, 8, 3), (64, 48, 3), (16, 16)])
def test_the_tag_is_constant_and_leaves_the_pixels_alone(shape):
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    tagged, plain = jpeg.encode(image), jpeg.encode(image, generated=False)
    assert tagged == jpeg.encode(image) and len(tagged) - len(plain) == jpeg.TAG_BYTES == 473
    with Image.open(io.BytesIO(tagged)) as one, Image.open(io.BytesIO(plain)) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_dali_decodes_it(image_HWC):
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    data = jpeg.encode(image_HWC)

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def decode():
        return fn.decoders.image(fn.external_source(lambda: [np.frombuffer(data, dtype=np.uint8)], batch=True))

    pipe = decode()
    pipe.build()
    decoded = np.asarray(pipe.run()[0][0])
    with Image.open(io.BytesIO(data)) as image:
        assert decoded.shape == (24, 40, 3) and np.abs(decoded.astype(int) - np.asarray(image)).max() <= 3
