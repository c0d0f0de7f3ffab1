from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from hermes.aeriel.serve.runtimes._image import DEFAULT_IMAGE_PATH, check_image, find_image
from hermes.errors import ImageError


def test_a_relative_image_is_found_in_the_working_directory_first(tmp_path: Path) -> None:
    here, site = tmp_path / "here", tmp_path / "site"
    for directory in (here, site):
        directory.mkdir()
        (directory / "triton.sif").touch()
    environ = {"HERMES_IMAGE_PATH": str(site)}
    assert find_image("triton.sif", environ, here) == str(here / "triton.sif")


def test_a_relative_image_is_found_in_the_image_path_in_order(tmp_path: Path) -> None:
    image = tmp_path / "second" / "group" / "triton.sif"
    image.parent.mkdir(parents=True)
    image.touch()
    environ = {"HERMES_IMAGE_PATH": f"{tmp_path / 'first'}::{tmp_path / 'second'}"}
    assert find_image(Path("group/triton.sif"), environ, tmp_path) == str(image)


def test_without_an_image_path_the_network_file_system_is_searched(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"{DEFAULT_IMAGE_PATH}/triton.sif"):
        find_image("triton.sif", {}, tmp_path)


def test_an_absolute_image_is_where_it_says(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist") as caught:
        find_image("/nowhere/triton.sif", {"HERMES_IMAGE_PATH": str(tmp_path)}, tmp_path)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("uri", ["docker://nvcr.example/tritonserver", "library://a/b", "oras://c"])
def test_a_uri_is_left_to_the_container_runtime(uri: str, tmp_path: Path) -> None:
    assert find_image(uri, {}, tmp_path) == uri
    check_image(uri)


def test_a_directory_is_an_image_only_if_it_is_a_sandbox(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a sandbox"):
        check_image(str(tmp_path))
    (tmp_path / ".singularity.d").mkdir()
    check_image(str(tmp_path))


def test_a_truncated_image_says_how_much_is_missing(tmp_path: Path) -> None:
    image = tmp_path / "triton.sif"
    numbers = (0, 0, 0, 48, 4096, 0, 4096, 1000)
    header = struct.pack("<32s10s3s3s16s8q", b"", b"SIF_MAGIC\0", b"01", b"02", b"", *numbers)
    image.write_bytes(header.ljust(4096 + 999, b"\0"))
    with pytest.raises(ImageError, match="it has 5095 of 5096 bytes"):
        check_image(str(image))
    image.write_bytes(header.ljust(4096 + 1000, b"\0"))
    check_image(str(image))


def test_other_formats_are_left_to_the_container_runtime(tmp_path: Path) -> None:
    image = tmp_path / "triton.img"
    image.write_bytes(b"hsqs" + bytes(200))
    check_image(str(image))


def test_what_is_neither_a_file_nor_a_directory_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match="neither a file"):
        check_image(str(tmp_path / "fifo"))


@pytest.mark.parametrize("target", ["nowhere", "triton.sif"])
def test_what_cannot_be_read_says_why(target: str, tmp_path: Path) -> None:
    (tmp_path / "triton.sif").symlink_to(target)
    image = find_image("triton.sif", {}, tmp_path)
    with pytest.raises(ImageError, match=r"cannot be read: (No such file|Too many levels)"):
        check_image(image)
