"""Rows with images, answered by a tiny model that takes them, through a real host."""

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task
from PIL import Image
from pipeline_run import published_result

from mloc.core.host_frames import EngineLoaded
from mloc.executors.contract import ExecutorError
from mloc.executors.models.image_models import image_processor
from mloc.executors.models.weights import Weights
from mloc.executors.rows import pictures
from mloc.executors.rows.pictures import open_pictures

RED, BLUE = (220, 30, 10), (10, 30, 220)
names = iter(range(10_000))


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


def data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def asking(*images: str, text: str = "what is it?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": "image_url", "image_url": {"url": one}} for one in images), {"type": "text", "text": text}]}]


def header_of_a_png(width: int, height: int) -> bytes:
    """A few bytes that promise many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + png(RED)[33:]


def answered(host: DrivenHost, model: Path, items: list[Any], folder: Path, **given: Any) -> list[dict[str, Any]]:
    spec = {"model": {"source": {"type": "local", "identifier": str(model)}}, "data": {"type": "list", "items": items}}
    settings = {"max_tokens": 12, "temperature": 0, "ignore_eos": True, **given.pop("inference", {})}
    asked = task(f"t{next(names)}", "inference", folder, **spec, inference=settings, **given)
    host.send(asked)
    items_: list[dict[str, Any]] = published_result(host, asked.task, Path(asked.final_folder).parent, asked.attempt)["items"]
    return items_


@pytest.mark.models
def test_what_an_image_shows_changes_the_answer(warm_host: DrivenHost, seeing_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "blue.png"
    file.write_bytes(png(BLUE))
    of_red = data_uri(png(RED))
    rows = [{"messages": asking(of_red)}, {"messages": asking(str(file))}, {"messages": asking()}, "what is it?", asking(of_red)]
    items = answered(warm_host, seeing_model, rows, tmp_path / "run")
    red, blue, none, plain, again = (item["output"] for item in items)
    assert len({red, blue, none}) == 3
    assert plain == none
    assert again == red
    assert items[0]["usage"]["prompt_tokens"] == items[2]["usage"]["prompt_tokens"] + 4


@pytest.mark.models
def test_rows_with_images_answer_in_a_batch_as_alone(warm_host: DrivenHost, seeing_model: Path, tmp_path: Path) -> None:
    red, blue = data_uri(png(RED)), data_uri(png(BLUE, (16, 50)))
    rows = [asking(red, text="one"), "two", asking(red, blue, text="three brown foxes"), asking(blue, text="four")]
    together = [item["output"] for item in answered(warm_host, seeing_model, rows, tmp_path)]
    alone = [answered(warm_host, seeing_model, [row], tmp_path)[0]["output"] for row in rows]
    assert together == alone


@pytest.mark.models
def test_an_image_that_cannot_be_had_is_an_error_in_its_place(warm_host: DrivenHost, seeing_model: Path, tmp_path: Path) -> None:
    rows = [
        asking(data_uri(png(RED)[:60])), asking("/no/such/image.png"), asking("https://not.fetched/a.png"),
        asking(data_uri(header_of_a_png(60_000, 60_000))), {"prompt": [{"type": "video_url", "video_url": {"url": "/v.mp4"}}]},
        asking(data_uri(png(RED))),
    ]  # fmt: skip
    items = answered(warm_host, seeing_model, rows, tmp_path)
    assert [item.get("error", {}).get("type") for item in items] == ["BadImage", "NoImage", "NoImage", "ImageTooLarge", "OnlyText", None]
    assert "holds a video, and models are given text and images" in items[4]["error"]["message"]
    assert "base64" in items[3]["error"]["message"]
    assert len(items[3]["error"]["message"]) < 300


@pytest.mark.models
def test_an_image_that_was_fetched_is_found_by_its_url(warm_host: DrivenHost, seeing_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "cached"
    file.write_bytes(png(RED))
    url = "https://example.org/red"
    items = answered(warm_host, seeing_model, [asking(url), asking(str(file))], tmp_path / "run", run_fetched={url: str(file)})
    assert items[0]["output"] == items[1]["output"]
    loads = [frame for frame in warm_host.frames if isinstance(frame, EngineLoaded) and frame.engine.startswith(str(seeing_model))]
    assert len(loads) == 1, "an image that was fetched is no part of the model"


@pytest.mark.models
def test_a_library_that_a_model_needs_for_images_is_named(seeing_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def lacking(*_: Any, **__: Any) -> None:
        raise ImportError("\nItsVideoProcessor requires the Torchvision library but it was not found. Check out the page\nand so on")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lacking)
    with pytest.raises(ExecutorError, match=r"ItsVideoProcessor requires the Torchvision library but it was not found$") as raised:
        image_processor(Weights(str(seeing_model)), None, trust=False)
    assert raised.value.type == "MissingDependency"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_images_are_opened_in_the_usual_formats(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "image"
    Image.new("RGB", (5, 7), RED).save(file, kind)
    (opened,) = open_pictures([{"type": "image", "path": str(file)}], str)
    assert (opened.mode, opened.size) == ("RGB", (5, 7))


def test_other_forms_of_a_part_name_an_image_too(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(png(RED))
    forms = [{"type": "image", "base64": base64.b64encode(png(RED)).decode()}, {"type": "image", "image": f"file://{file}"}]
    assert [image.getpixel((3, 3)) for image in open_pictures(forms, str)] == [RED, RED]


def test_limits_hold_for_bytes_and_for_the_pixels_of_a_whole_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(png(RED))
    one = {"type": "image", "image": str(file)}
    monkeypatch.setattr(pictures, "MAX_PIXELS", 2 * 40 * 30)
    assert len(open_pictures([one, one], str)) == 2
    with pytest.raises(ExecutorError, match="too many pixels"):
        open_pictures([one, one, one], str)
    monkeypatch.setattr(pictures, "MAX_BYTES", 50)
    for part in (one, {"type": "image", "image": data_uri(png(RED))}):
        with pytest.raises(ExecutorError, match="an image may have 50"):
            open_pictures([part], str)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    for path in ("/dev/zero", str(tmp_path), "/x\0y"):
        with pytest.raises(ExecutorError) as raised:
            open_pictures([{"type": "image", "image": path}], str)
        assert raised.value.type == "NoImage"
