# SPDX-License-Identifier: MIT
"""A folder of images as people really have it: what is read, and an error with
a way out for what is not.
"""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import metabook as mb


def drawing(paper=255, ink=0, size=(56, 56), mode="L"):
    """A square of ink in the left upper part of the paper."""
    image = Image.new("L", size, paper)
    image.paste(ink, (8, 8, 28, 28))
    return image.convert(mode)


@pytest.fixture
def folder(tmp_path):
    """Two classes of two drawings."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(2):
            drawing().save(tmp_path / name / f"{i}.png")
    return tmp_path


def mean_ink(image):
    return image.double().mean().item()


INK = 255 * (20 / 56) ** 2  # what `drawing` has on average


def test_class_folders_become_classes_in_the_order_of_their_names(folder):
    (folder / "Ant").mkdir()
    Image.new("L", (30, 30), 255).save(folder / "Ant" / "a.JPG")
    images = mb.image_folder(folder)
    assert images.names == ["Ant", "cat", "dog"]
    assert images.counts.tolist() == [1, 2, 2]
    assert (images.images.dtype, images.images.shape) == (
        torch.uint8,
        (5, 1, 28, 28),
    )
    assert images.images[0].max() == 0, "blank paper is background"
    assert mb.image_folder(str(folder)).names == images.names, (
        "a string will do"
    )
    tasks = mb.FewShotTasks(images.subset([1, 2]), way=2, shot=1, query=1)
    assert len(tasks.sample(2)) == 2


@pytest.mark.parametrize(
    "form", ["png", "jpg", "bmp", "gif", "tif", "webp", "pgm"]
)
def test_the_usual_formats_are_read(tmp_path, form):
    drawing().save(tmp_path / f"x.{form}")
    image = mb.load_image(tmp_path / f"x.{form}")
    assert mean_ink(image) == pytest.approx(INK, rel=0.05)
    assert image[0, 9, 9] > 240
    assert image[0, 25, 25] < 15


@pytest.mark.parametrize(
    ("paper", "ink"), [(255, 0), (0, 255), (200, 30), (40, 220)]
)
def test_ink_is_bright_whichever_way_the_picture_came(tmp_path, paper, ink):
    drawing(paper, ink).save(tmp_path / "x.png")
    image = mb.load_image(tmp_path / "x.png")
    assert image[0, 9, 9] > 170
    assert image[0, 25, 25] < 60


def test_inverting_can_be_chosen(tmp_path):
    drawing().save(tmp_path / "x.png")
    auto, yes, no = (
        mb.load_image(tmp_path / "x.png", invert=i)
        for i in ("auto", True, False)
    )
    assert torch.equal(auto, yes)
    assert torch.equal(no, 255 - yes), "a square picture: no padding"


def test_a_drawing_that_touches_an_edge_is_still_ink_on_paper(tmp_path):
    image = Image.new("L", (56, 56), 255)
    image.paste(0, (0, 0, 56, 10))  # a whole side, and a part of two others
    image.save(tmp_path / "x.png")
    assert mb.load_image(tmp_path / "x.png")[0, 2, 14] > 250


@pytest.mark.parametrize("size", [(112, 56), (56, 112), (300, 2)])
def test_the_shape_is_kept_and_the_rest_is_background(tmp_path, size):
    Image.new("L", size, 255).save(tmp_path / "blank.png")
    assert mb.load_image(tmp_path / "blank.png").max() == 0
    Image.new("L", size, 255).save(tmp_path / "full.png")
    inside = mb.load_image(tmp_path / "full.png", invert=False)[0] > 127
    sides = [int(inside.any(dim=d).sum()) for d in (0, 1)]  # width, height
    assert sides == [max(1, round(28 * s / max(size))) for s in size]
    across, down = inside.any(dim=0).nonzero(), inside.any(dim=1).nonzero()
    assert abs(int(across[0]) - (27 - int(across[-1]))) <= 1, "in the middle"
    assert abs(int(down[0]) - (27 - int(down[-1]))) <= 1


def test_thin_lines_are_averaged_not_lost(tmp_path):
    """One pixel in twenty: nearest-neighbour scaling would keep it or lose it,
    as chance has it.
    """
    for offset in range(20):
        image = Image.new("L", (560, 560), 255)
        image.paste(0, (200 + offset, 0, 201 + offset, 560))
        image.save(tmp_path / "x.png")
        assert mean_ink(mb.load_image(tmp_path / "x.png")) == pytest.approx(
            255 / 560, rel=0.5
        )


def test_one_bit_pictures_are_smoothed_too(tmp_path):
    Image.fromarray(np.indices((56, 56)).sum(0) % 2 == 0).save(
        tmp_path / "x.png"
    )
    inside = mb.load_image(tmp_path / "x.png", invert=False)[
        0, 4:-4, 4:-4
    ].double()
    assert inside.std() < 10
    assert inside.mean() == pytest.approx(127.5, abs=3)


def test_colour_is_an_option_and_left_as_it_is(tmp_path):
    for name, color in (("red", (255, 0, 0)), ("white", (255, 255, 255))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), color).save(tmp_path / name / "x.png")
    images = mb.image_folder(tmp_path, channels=3, size=16)
    assert images.images.shape == (2, 3, 16, 16)
    assert images.images[:, :, 8, 8].tolist() == [[255, 0, 0], [255, 255, 255]]
    grey = mb.image_folder(tmp_path, invert=False)
    assert grey.images[:, 0, 14, 14].tolist() == [
        76,
        255,
    ], "the usual weights of red, green and blue"


@pytest.mark.parametrize("ink", ["black", "white"])
@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("invert", ["auto", "said"])
def test_what_is_transparent_is_background(tmp_path, ink, palette, invert):
    image = Image.new("RGBA", (56, 56), (0, 0, 0, 0))
    image.paste(ink, (8, 8, 28, 28))
    image = image.quantize() if palette else image
    image.save(tmp_path / "x.png")
    got = mb.load_image(
        tmp_path / "x.png",
        invert="auto" if invert == "auto" else ink == "black",
    )
    assert mean_ink(got) == pytest.approx(INK, rel=0.05)


def test_palettes_are_colours_and_not_numbers(tmp_path):
    image = drawing().quantize(2)
    assert image.mode == "P"
    image.save(tmp_path / "x.gif")
    assert mean_ink(mb.load_image(tmp_path / "x.gif")) == pytest.approx(
        INK, rel=0.05
    )


def test_sixteen_bits_are_not_clipped(tmp_path):
    values = np.full((28, 28), 40000, np.uint16)
    values[8:12] = 5000
    Image.fromarray(values).save(tmp_path / "x.png")
    image = mb.load_image(tmp_path / "x.png", invert=False)
    assert (int(image[0, 20, 14]), int(image[0, 10, 14])) == (
        round(40000 / 257),
        round(5000 / 257),
    )


def test_pixels_without_a_known_black_and_white_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(
        ValueError,
        match=(
            r"x\.tif cannot be read as a picture \(its pixels are of mode"
            r" 'F'.*8 bits"
        ),
    ):
        mb.load_image(tmp_path / "x.tif")


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    drawing().save(tmp_path / "x.jpg", exif=exif)
    image = mb.load_image(tmp_path / "x.jpg")
    assert image[0, 18, 18] > 240
    assert image[0, 9, 9] < 15


def test_what_operating_systems_leave_behind_is_passed_over(folder):
    expected = mb.image_folder(folder)
    for name in (
        "Thumbs.db",
        ".DS_Store",
        "desktop.ini",
        "._0.png",
        "notes.txt",
    ):
        (folder / name).write_bytes(b"x")
        (folder / "cat" / name).write_bytes(b"x")
    for name in (".git", "__MACOSX"):
        (folder / name / "cat").mkdir(parents=True)
        (folder / name / "cat" / "0.png").write_bytes(b"x")
        (folder / "cat" / name).mkdir()
    images = mb.image_folder(folder)
    assert images.names == expected.names
    assert torch.equal(images.images, expected.images)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no folder .*nowhere \(looked for in"
    ):
        mb.image_folder(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_named(folder):
    with pytest.raises(
        NotADirectoryError,
        match=(
            r"0\.png is a file; give the folder that holds a folder for each"
            r" class"
        ),
    ):
        mb.image_folder(folder / "cat" / "0.png")


def test_pictures_without_class_folders_are_named(folder):
    with pytest.raises(
        ValueError,
        match=(
            r"0\.png lies beside the class folders, so its class is unknown:"
            r" put every"
        ),
    ):
        mb.image_folder(folder / "cat")
    drawing().save(folder / "stray.png")
    with pytest.raises(
        ValueError, match=r"stray\.png lies beside the class folders"
    ):
        mb.image_folder(folder)


def test_a_folder_without_anything_is_named(tmp_path):
    with pytest.raises(
        ValueError, match="has no folders; it needs one for each class"
    ):
        mb.image_folder(tmp_path)


def test_an_empty_class_folder_is_named(folder):
    (folder / "emu").mkdir()
    with pytest.raises(
        ValueError,
        match=(
            r"class folder .*emu holds no pictures, nothing: put some in, or"
            r" remove"
        ),
    ):
        mb.image_folder(folder)


def test_a_class_folder_without_pictures_is_named_with_what_it_holds(folder):
    (folder / "emu").mkdir()
    (folder / "emu" / "list.csv").write_text("1,2")
    with pytest.raises(
        ValueError, match=r"class folder .*emu holds no pictures, only \.csv"
    ):
        mb.image_folder(folder)


def test_one_class_alone_is_named(folder):
    for file in (folder / "dog").iterdir():
        file.unlink()
    (folder / "dog").rmdir()
    with pytest.raises(
        ValueError,
        match=r"has one class, 'cat'; to tell classes apart takes two",
    ):
        mb.image_folder(folder)


@pytest.mark.parametrize("content", [b"", b"not a picture", "half"])
def test_a_broken_picture_is_named(folder, content):
    if content == "half":
        noise = (
            np.random.default_rng(0).integers(0, 255, (60, 60)).astype(np.uint8)
        )
        Image.fromarray(noise).save(folder / "whole.png")
        content = (folder / "whole.png").read_bytes()[:2000]
        (folder / "whole.png").unlink()
    (folder / "dog" / "broken.png").write_bytes(content)
    with pytest.raises(
        ValueError,
        match=(
            r"broken\.png cannot be read as a picture .*: replace it, or"
            r" remove it"
        ),
    ):
        mb.image_folder(folder)


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0,
    reason="everything may be read here",
)
def test_a_picture_that_may_not_be_read_is_named(folder):
    (folder / "dog" / "0.png").chmod(0)
    with pytest.raises(
        ValueError,
        match=r"0\.png cannot be read as a picture .*Permission denied",
    ):
        mb.image_folder(folder)


def test_a_picture_of_a_kind_that_is_not_read_is_not_dropped_without_a_word(
    folder,
):
    (folder / "dog" / "phone.HEIC").write_bytes(b"x")
    with pytest.raises(
        ValueError,
        match=(
            r"phone\.HEIC is a picture of a kind that is not read here: save it"
            r" as PNG"
        ),
    ):
        mb.image_folder(folder)


@pytest.mark.parametrize("part", ["train", "Test", "val"])
def test_the_parts_of_a_split_are_loaded_each_by_itself(folder, tmp_path, part):
    top = tmp_path / "top"
    (top / part).mkdir(parents=True)
    for name in ("cat", "dog"):
        (folder / name).rename(top / part / name)
    with pytest.raises(
        ValueError,
        match=(
            f"'{part}' is a part of a split.*load each part by itself, as"
            " mb.image_folder"
        ),
    ):
        mb.image_folder(top)
    assert mb.image_folder(top / part).names == ["cat", "dog"]


def test_a_level_too_many_is_named(folder):
    (folder / "outer").mkdir()
    (folder / "cat").rename(folder / "outer" / "cat")
    with pytest.raises(
        ValueError,
        match=(
            r"cat holds pictures one level below the class folders: if 'outer'"
            r" is no class"
        ),
    ):
        mb.image_folder(folder)
    (folder / "dog" / "old").mkdir()
    drawing().save(folder / "dog" / "old" / "2.png")
    (folder / "outer" / "cat").rename(folder / "cat")
    (folder / "outer").rmdir()
    with pytest.raises(
        ValueError,
        match=(
            r"old holds pictures one level below .*if it is, move the pictures"
            r" up into it"
        ),
    ):
        mb.image_folder(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_and_broken_ones_named(folder, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to(folder / "cat")
    (tmp_path / "links" / "dog").mkdir()
    (tmp_path / "links" / "dog" / "0.png").symlink_to(folder / "dog" / "0.png")
    assert mb.image_folder(tmp_path / "links").counts.tolist() == [2, 1]
    (tmp_path / "loops" / "cat").mkdir(parents=True)
    # leads back to where it lies
    (tmp_path / "loops" / "cat" / "loop").symlink_to(tmp_path / "loops" / "cat")
    drawing().save(tmp_path / "loops" / "cat" / "0.png")
    with pytest.raises(ValueError, match="one level below the class folders"):
        mb.image_folder(tmp_path / "loops")
    (tmp_path / "links" / "dog" / "1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(
        ValueError,
        match=(
            r"1\.png is a link to something that is not there: remove it, or"
            r" mend it"
        ),
    ):
        mb.image_folder(tmp_path / "links")


def test_a_picture_that_would_fill_the_memory_is_named(folder, monkeypatch):
    # Pillow warns above its limit, and raises above twice of it
    for limit in (2000, 1000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(
            ValueError,
            match=(
                rf"0\.png is larger than the {limit:,} pixels .*: save it"
                r" smaller"
            ),
        ):
            mb.image_folder(folder)


@pytest.mark.parametrize("form", ["gif", "png", "tif", "webp"])
def test_a_picture_of_several_frames_is_named(folder, form):
    frames = [drawing(), drawing(0, 255)]
    frames[0].save(
        folder / "cat" / f"moving.{form}",
        save_all=True,
        append_images=frames[1:],
    )
    with pytest.raises(
        ValueError,
        match=(
            rf"moving\.{form} has 2 frames, and which is meant is unknown: save"
            r" that one"
        ),
    ):
        mb.image_folder(folder)


def test_a_cameras_second_picture_for_the_screen_does_not_matter(tmp_path):
    drawing().save(
        tmp_path / "x.jpg",
        format="MPO",
        save_all=True,
        append_images=[drawing(0, 255)],
    )
    assert mean_ink(mb.load_image(tmp_path / "x.jpg")) == pytest.approx(
        INK, rel=0.05
    )


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        mb.load_image(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size is 0; it must be at least 1"),
        ({"channels": 4}, "channels is 4; choose 1 for grey or 3 for colour"),
        ({"invert": "yes"}, "invert is 'yes'; choose 'auto', True or False"),
    ],
)
def test_unknown_options_are_named(folder, change, message):
    with pytest.raises(ValueError, match=message):
        mb.image_folder(folder, **change)


def test_importing_the_package_does_not_import_pillow_or_scikit_learn():
    import subprocess

    code = (
        "import sys, metabook; print(sorted({'PIL', 'sklearn'} &"
        " set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_the_digits_are_scikit_learns_with_ink_on_empty_paper():
    digits = mb.digits()
    assert digits.names == [str(d) for d in range(10)]
    assert len(digits) == 1797
    assert digits.images.shape[1:] == (1, 28, 28)
    assert digits.images[:, 0, 14, 0].double().mean() < 40, (
        "little ink at the edge"
    )
    raw = load_digits()
    small = mb.digits(size=8)
    order = np.argsort(raw.target, kind="stable")
    assert (
        np.abs(
            small.images[:, 0].numpy() * (16 / 255) - raw.images[order]
        ).max()
        < 0.05
    )
    with pytest.raises(ValueError, match="size is 7"):
        mb.digits(size=7)
