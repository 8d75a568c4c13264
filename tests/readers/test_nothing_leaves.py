"""Nothing that a file asks for is run, fetched or written, and no file that it names is read.

Each file below names a server of this test, a secret file of this machine, and a file that it would like to make.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from domain.errors import NightowlError
from domain.limits import Limits
from tests.readers.hostile.containers import SVG, archive, chapter, epub
from tests.readers.hostile.documents import BOX, pdf, picture, stream
from tests.readers.test_formats import xps
from tests.servers import Web, answer
from worker.readers.base import Open

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.readers.base import Page
    from worker.readers.children import Readers

SECRET = "the-owl-flies-at-midnight"
NAMES = ("a.png", "a.css", "a.dtd", "a.svg", "a.pdf")


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        server.answers.update({f"/{name}": answer(SECRET.encode()) for name in NAMES})
        yield server


def _svg(url: str, secret: str, wish: str) -> bytes:
    entities = f'<!ENTITY near SYSTEM "file://{secret}"><!ENTITY far SYSTEM "{url}a.dtd">'
    return (
        f'<!DOCTYPE svg [{entities}<!ENTITY % p SYSTEM "{url}a.dtd"> %p;]><?xml-stylesheet href="{url}a.css"?>'
        f'<svg xmlns="{SVG}" xmlns:xlink="http://www.w3.org/1999/xlink" width="300" height="100">'
        f'<style>@import url("{url}a.css");</style><script>require("fs").writeFileSync("{wish}", "")</script>'
        f'<image width="50" height="50" xlink:href="{url}a.png"/><image width="50" height="50" href="file://{secret}"/>'
        f'<image width="50" height="50" href="{secret}"/><use href="{url}a.svg#x"/>'
        f'<text y="20">&near;&far;</text></svg>'
    ).encode()


def _epub(url: str, secret: str, wish: str) -> bytes:
    up = "../" * 12
    body = f'<img src="{url}a.png"/><img src="file://{secret}"/><img src="{up}{secret[1:]}"/>'
    body += f'<object data="{url}a.svg"/><iframe src="file://{secret}"/><link rel="stylesheet" href="{url}a.css"/>'
    doctype = f'<!DOCTYPE html [<!ENTITY near SYSTEM "file://{secret}">]>'.encode()
    return epub(doctype + chapter(f"{body}<p>&near;</p>"), **{up + wish[1:]: b"written"})


def _xps(url: str, secret: str, wish: str) -> bytes:
    brushes = "".join(
        '<Path Data="M 5,5 L 90,5 90,90 Z"><Path.Fill><ImageBrush ViewportUnits="Absolute" ViewboxUnits="Absolute" '
        f'Viewport="0,0,9,9" Viewbox="0,0,9,9" ImageSource="{target}"/></Path.Fill></Path>'
        for target in (f"{url}a.png", f"file://{secret}", secret)
    )
    space = "http://schemas.microsoft.com/xps/2005/06"
    page = f'<FixedPage xmlns="{space}" Width="400" Height="300" xml:lang="en">{brushes}</FixedPage>'
    with zipfile.ZipFile(io.BytesIO(xps())) as whole:
        members: dict[str, bytes | str] = {name: whole.read(name) for name in whole.namelist()}
    return archive({**members, "1.fpage": page, "../" * 12 + wish[1:]: b"written"})


def _fb2(url: str, secret: str, wish: str) -> bytes:
    body = f'<p>&near;</p><image l:href="{url}a.png"/><image l:href="file://{secret}"/>'
    return (
        f'<!DOCTYPE FictionBook [<!ENTITY near SYSTEM "file://{secret}">]>'
        '<FictionBook xmlns="http://www.gribuser.ru/xml/fictionbook/2.0" xmlns:l="http://www.w3.org/1999/xlink">'
        f"<description/><body><section>{body}</section></body></FictionBook>"
    ).encode()


def _pdf(url: str, secret: str, wish: str) -> bytes:
    """Scripts and actions for every occasion, an attached file, and streams that lie in other files."""
    script = f"<< /S /JavaScript /JS (app.launchURL\\('{url}a.pdf'\\); this.submitForm\\('{url}a.pdf'\\)) >>"
    launch = f"<< /S /Launch /F ({wish}) /Unix (touch {wish}) /Win << /F (sh) /P (-c 'touch {wish}') >> >>"
    far = f"<< /FS /URL /F ({url}a.pdf) >>"
    catalog = f"/OpenAction {script} /AA << /WC {launch} >> /URI << /Base ({url}) >>"
    catalog += " /AcroForm << /XFA [(template) 12 0 R] /Fields [] /NeedAppearances true >>"
    catalog += f" /Names << /EmbeddedFiles << /Names [({wish}) 11 0 R] >> /JavaScript << /Names [(a) {script}] >> >>"
    font = "/Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
    page = f"{BOX} /Contents [4 0 R 5 0 R 6 0 R] /AA << /O {launch} /C << /S /ImportData /F {far} >> >>"
    page += f" /Resources << /XObject << /I 10 0 R /R 13 0 R >> {font} >>"
    page += f" /Annots [<< /Type /Annot /Subtype /Link /Rect [0 0 300 300] /A {launch} >>]"
    template = f'<template xmlns="http://www.xfa.org/schema/xfa-template/2.8/"><a href="{url}a.pdf"/></template>'
    return pdf(
        {
            1: f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
            2: "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: f"<< /Type /Page /Parent 2 0 R {page} >>",
            4: stream(b"BT /F 12 Tf 20 200 Td (words) Tj ET /I Do /R Do"),
            5: stream(b"", f"/F (file://{secret})"),
            6: stream(b"", f"/F {far}"),
            10: stream(b"", f"{picture(9, 9)} /F ({secret})"),
            11: f"<< /Type /Filespec /F ({wish}) /UF ({wish}) /EF << /F 14 0 R >> >>",
            12: stream(template.encode()),
            13: stream(b"", f"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Ref << /F {far} /Page 0 >>"),
            14: stream(b"written", "/Type /EmbeddedFile"),
        }
    )


MAKERS = {"svg": _svg, "epub": _epub, "xps": _xps, "fb2": _fb2, "pdf": _pdf}


@pytest.mark.parametrize("format", MAKERS)
def test_nothing_is_run_fetched_read_or_written(readers: Readers, web: Web, tmp_path: Path, format: str) -> None:
    secret, wish = tmp_path / "secret.txt", tmp_path / "wish"
    secret.write_text(SECRET)
    path = tmp_path / f"file.{format}"
    path.write_bytes(MAKERS[format](web.url("/"), str(secret), str(wish)))
    before = _all_files(tmp_path)
    page = _read(readers, path)
    text = page.layer.text if page is not None and page.layer is not None else ""
    assert SECRET not in text
    assert text == "words" if format == "pdf" else True
    assert web.asked == []
    assert _all_files(tmp_path) == before


def test_a_picture_beside_the_file_is_not_drawn(readers: Readers, tmp_path: Path) -> None:
    """A red square lies where the drawing, the e-book and the page point to."""
    red = tmp_path / "red.png"
    Image.new("RGB", (50, 50), "red").save(red)
    shapes = f'<image width="50" height="50" href="{red}"/><image width="50" height="50" href="red.png"/>'
    chapters = chapter(f'<p>x</p><img src="{red}"/><img src="red.png"/><img src="../red.png"/>')
    contents = {
        "a.svg": f'<svg xmlns="{SVG}" width="60" height="60">{shapes}</svg>'.encode(),
        "a.epub": epub(chapters),
        "a.xps": _xps("http://127.0.0.1:9/", str(red), "/nowhere"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        page = _read(readers, tmp_path / name)
        assert page is not None
        image = page.image.astype(int)
        assert not np.any((image[..., 0] > 200) & (image[..., 1] < 60)), name


def _read(readers: Readers, path: Path) -> Page | None:
    source = Open(path=path, limits=Limits())
    try:
        readers.probe(source)
        return readers.page(source, 1, target_pixels=400)
    except NightowlError as error:
        assert SECRET not in error.message
        return None


def _all_files(folder: Path) -> set[str]:
    """Of this test, and of the places where a relative name would end up."""
    return {str(found) for found in folder.parent.rglob("*")} | {str(found) for found in Path.cwd().iterdir()}
