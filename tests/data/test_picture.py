# SPDX-License-Identifier: MIT
"""One picture in all the ways that files have to hold it."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from test_image_folder import INK, drawing, mean_ink

import metabook as mb


def sixteen_bit_png(path, values, color_type, transparent=None):
    """Write what Pillow cannot: (H, W, bands) uint16 of any colour type."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    clear = b"" if transparent is None else chunk(b"tRNS", transparent)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + clear
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def clear_drawing(ink, size=(56, 56)):
    """A square of ink on transparent ground."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste(ink, (8, 8, 28, 28))
    return image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_drawing_is_the_same_in_every_mode(tmp_path, mode, channels):
    form = "jpg" if mode == "CMYK" else "png"
    drawing(mode="L").convert(mode).save(tmp_path / f"x.{form}", quality=95)
    with Image.open(tmp_path / f"x.{form}") as image:
        assert image.mode == mode
    got = mb.load_image(tmp_path / f"x.{form}", channels=channels)
    ink = got if channels == 1 else 255 - got  # colour is left as it is
    assert mean_ink(ink) == pytest.approx(INK, rel=0.05)
    assert (ink[:, 9, 9] > 240).all()
    assert (ink[:, 25, 25] < 15).all()


def test_two_by_one_pictures_are_padded_cut_or_squeezed(tmp_path):
    """Three bars, left, middle and right, in a picture of 112 x 56."""
    image = Image.new("L", (112, 56), 0)
    for left, value in ((0, 80), (44, 160), (88, 240)):
        image.paste(value, (left, 0, left + 24, 56))
    image.save(tmp_path / "x.png")
    pad, crop, squeeze = (
        mb.load_image(tmp_path / "x.png", invert=False, fit=fit)[0]
        for fit in ("pad", "crop", "squeeze")
    )
    assert torch.equal(pad, mb.load_image(tmp_path / "x.png", invert=False)[0])
    assert pad[[2, 25], 14].tolist() == [0, 0]
    bars = pytest.approx([80, 160, 240], abs=3)
    assert pad[14, [2, 14, 24]].tolist() == bars
    assert crop[[2, 14, 25], 14].tolist() == pytest.approx([160] * 3, abs=3)
    assert crop[14, [3, 24]].tolist() == [0, 0], "the middle alone"
    assert squeeze[[2, 14, 25], 14].tolist() == pytest.approx([160] * 3, abs=3)
    assert squeeze[14, [2, 14, 24]].tolist() == bars


@pytest.mark.parametrize("size", [(41, 90), (90, 41)])
def test_the_cut_is_in_the_middle_of_either_side(tmp_path, size):
    image = Image.new("L", size, 0)
    middle = [side // 2 for side in size]
    image.paste(
        255, (middle[0] - 5, middle[1] - 5, middle[0] + 6, middle[1] + 6)
    )
    image.save(tmp_path / "x.png")
    got = mb.load_image(tmp_path / "x.png", invert=False, fit="crop", size=41)
    inside = got[0].nonzero()
    assert len(inside) == 121, "neither scaled nor blurred: a side has 41"
    assert (inside.double().mean(dim=0) - 20.5).abs().max() <= 0.5


@pytest.mark.parametrize("ink", [(0, 0, 0), (120, 0, 40)])
@pytest.mark.parametrize("invert", ["auto", False])
def test_dark_ink_on_transparent_ground_lies_on_white_paper(
    tmp_path, ink, invert
):
    clear_drawing(ink, (56, 28)).save(tmp_path / "x.png")
    got = mb.load_image(tmp_path / "x.png", channels=3, invert=invert)
    assert got[:, 12, 9].tolist() == pytest.approx(list(ink), abs=4)
    assert got[:, 12, 22].tolist() == [255] * 3, "paper"
    assert got[:, 2, 14].tolist() == [255] * 3, "padding is paper too"


def test_light_ink_on_transparent_ground_lies_on_black_paper(tmp_path):
    clear_drawing((255, 240, 10)).save(tmp_path / "x.png")
    got = mb.load_image(tmp_path / "x.png", channels=3)
    assert got[:, 9, 9].tolist() == pytest.approx([255, 240, 10], abs=4)
    assert got[:, 25, 25].tolist() == [0] * 3


def test_inverted_paper_is_background(tmp_path):
    clear_drawing("black", (56, 28)).save(tmp_path / "x.png")
    for channels in (1, 3):
        got = mb.load_image(tmp_path / "x.png", channels=channels, invert=True)
        assert got[:, 12, 9].tolist() == [255] * channels
        assert got[:, [12, 2], [22, 14]].tolist() == [[0, 0]] * channels


def test_a_colour_may_stand_for_transparency(tmp_path):
    image = Image.new("RGB", (56, 56), (255, 0, 255))
    image.paste("black", (8, 8, 28, 28))
    image.save(tmp_path / "x.png", transparency=(255, 0, 255))
    got = mb.load_image(tmp_path / "x.png")
    assert mean_ink(got) == pytest.approx(INK, rel=0.05)
    assert (got[0, 25, 25], got[0, 9, 9]) == (0, 255)


def test_half_transparent_ink_is_half_as_dark(tmp_path):
    clear_drawing((0, 0, 0, 128)).save(tmp_path / "x.png")
    got = mb.load_image(tmp_path / "x.png", channels=3)
    assert abs(int(got[0, 9, 9]) - 127) <= 1


def test_colours_of_sixteen_bits_keep_their_brightness(tmp_path):
    values = np.full((28, 28, 3), (40000, 5000, 65535), np.uint16)
    values[8:12] = 0
    sixteen_bit_png(tmp_path / "x.png", values, color_type=2)
    got = mb.load_image(tmp_path / "x.png", channels=3)
    expected = [round(v / 257) for v in (40000, 5000, 65535)]
    assert np.abs(np.subtract(got[:, 20, 14].tolist(), expected)).max() <= 1
    assert got[:, 9, 14].tolist() == [0, 0, 0]


@pytest.mark.parametrize("color_type", [4, 6])
def test_sixteen_bits_with_transparency_are_laid_on_paper(tmp_path, color_type):
    bands = 2 if color_type == 4 else 4
    values = np.zeros((56, 56, bands), np.uint16)
    values[8:28, 8:28, -1] = 65535  # opaque black
    sixteen_bit_png(tmp_path / "x.png", values, color_type)
    grey = mb.load_image(tmp_path / "x.png")
    assert mean_ink(grey) == pytest.approx(INK, rel=0.05)
    colour = mb.load_image(tmp_path / "x.png", channels=3)
    assert colour[:, 9, 9].tolist() == [0, 0, 0]
    assert colour[:, 25, 25].tolist() == [255] * 3


def test_a_grey_of_sixteen_bits_may_stand_for_transparency(tmp_path):
    values = np.full((56, 56, 1), 300, np.uint16)
    values[8:28, 8:28] = 290  # in 8 bits both are 1
    sixteen_bit_png(
        tmp_path / "x.png", values, 0, transparent=struct.pack(">H", 300)
    )
    got = mb.load_image(tmp_path / "x.png")
    assert mean_ink(got) == pytest.approx(INK, rel=0.05)
    assert (got[0, 25, 25], got[0, 9, 9] > 250) == (0, True)


def test_what_becomes_one_colour_is_refused_and_the_ways_out_lead_out(tmp_path):
    message = (
        r"x\.png cannot be read as a picture \(it has several colours, and the"
        r" result a single one: give another fit=, invert= or channels=, or a"
        r" larger size=\): replace it, or remove it"
    )
    file = tmp_path / "x.png"

    corner = Image.new("L", (90, 30), 255)
    corner.paste(0, (0, 0, 10, 10))
    corner.save(file)
    with pytest.raises(ValueError, match=message):
        mb.load_image(file, fit="crop")
    assert mb.load_image(file, fit="pad").max() > 200

    speck = Image.new("L", (3000, 3000), 255)
    speck.putpixel((1500, 1500), 0)
    speck.save(file)
    with pytest.raises(ValueError, match=message):
        mb.load_image(file)
    assert mb.load_image(file, size=300).max() > 0

    alike = Image.new("RGB", (28, 28), (76, 76, 76))
    alike.paste((255, 0, 0), (8, 8, 20, 20))  # as bright as the grey
    alike.save(file)
    with pytest.raises(ValueError, match=message):
        mb.load_image(file)
    assert len(mb.load_image(file, channels=3).unique()) > 2

    dim = np.zeros((28, 28, 1), np.uint16)
    dim[8:20] = 100  # 0 of 255
    sixteen_bit_png(file, dim, color_type=0)
    with pytest.raises(ValueError, match=message):
        mb.load_image(file)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "nothing"])
def test_a_picture_that_is_of_one_colour_may_stay_so(tmp_path, mode, channels):
    image = Image.new("RGB", (40, 30), "white").convert(
        "RGBA" if mode == "nothing" else mode
    )
    if mode == "nothing":  # colours that nobody sees
        image.paste((9, 9, 9, 0), (0, 0, 40, 30))
        image.paste((200, 0, 0, 0), (8, 8, 20, 20))
    image.save(tmp_path / "x.png")
    got = mb.load_image(tmp_path / "x.png", channels=channels, fit="crop")
    assert got.flatten(1).unique(dim=1).shape[1] == 1


def test_a_folder_names_the_picture_that_goes_blank(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        image = Image.new("L", (90, 30), 255)
        image.paste(0, (40, 10, 50, 20) if name == "cat" else (0, 0, 9, 9))
        image.save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match=r"dog.0\.png cannot be read"):
        mb.image_folder(tmp_path, fit="crop")
    squeezed = mb.image_folder(tmp_path, fit="squeeze")
    assert squeezed.images.amax(dim=(1, 2, 3)).min() > 200
