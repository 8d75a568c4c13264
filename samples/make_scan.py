"""Makes scan.png, the scan of an invoice, and scan.gt.txt, the text that stands on it.

The page is set with PyMuPDF, rendered at 150 dpi and then treated as a cheap scanner would: turned a little, lit
unevenly, blurred, speckled, sent through a strong JPEG and kept in 16 shades of grey.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pymupdf as half_typed
from PIL import Image, ImageFilter

pymupdf: Any = half_typed

DPI = 150
TURN_DEGREES = 1.3
SHADES = 16

# description, pieces, price of one in pence
ITEMS = (
    ("Half-cloth binding, ledger for 2024", 2, 11_800),
    ("Slip case, grey board", 2, 4_250),
    ("Title on the spine, gold", 2, 2_150),
    ("Repair of the ledger for 1991", 1, 7_200),
    ("Carriage by the Friday ferry", 1, 3_000),
)
SUM = sum(pieces * price for _, pieces, price in ITEMS)

# x, y, size, font, text; the ground truth is these texts from top to bottom and left to right
Line = tuple[float, float, float, str, str]


def make(folder: Path) -> list[Path]:
    lines = _lines()
    scan, truth = folder / "scan.png", folder / "scan.gt.txt"
    _worsen(_render(lines)).save(scan, optimize=True, dpi=(DPI, DPI))
    truth.write_text(ground_truth(lines), encoding="utf-8")
    return [scan, truth]


def ground_truth(lines: list[Line]) -> str:
    rows: dict[float, list[Line]] = {}
    for line in lines:
        rows.setdefault(line[1], []).append(line)
    return "\n".join(" ".join(line[4] for line in sorted(rows[y])) for y in sorted(rows)) + "\n"


def _lines() -> list[Line]:
    head: list[Line] = [
        (70, 92, 22, "tibo", "Harbour Lane Bindery"),
        (70, 112, 11, "tiro", "4 Harbour Lane, Northhaven"),
        (70, 170, 12, "tiro", "Skerry Point Bird Observatory"),
        (70, 187, 12, "tiro", "The Warden"),
        (70, 204, 12, "tiro", "Skerry Point"),
        (370, 170, 12, "tiro", "Invoice no. 2025-0417"),
        (370, 187, 12, "tiro", "Date: 14 February 2025"),
        (370, 204, 12, "tiro", "Customer: 1087"),
        (70, 256, 12, "tiro", "Dear Warden,"),
        (70, 281, 12, "tiro", "the ledgers are dry and lie ready in the shop. We thank you for the"),
        (70, 298, 12, "tiro", "order and ask you to pay the amount below within thirty days."),
        (70, 344, 11, "tibo", "Description"),
        (330, 344, 11, "tibo", "Pieces"),
        (400, 344, 11, "tibo", "Price"),
        (476, 344, 11, "tibo", "Amount"),
    ]
    rows = [line for index, item in enumerate(ITEMS) for line in _row(372 + 23 * index, *item)]
    y = 372 + 23 * len(ITEMS) + 8
    foot: list[Line] = [
        (330, y, 12, "tibo", "Total in pounds"),
        (476, y, 12, "tibo", _pounds(SUM)),
        (70, y + 58, 12, "tiro", "The volume of 1991 had lost its first gathering; we have sewn it in"),
        (70, y + 75, 12, "tiro", "again. Please keep it away from the stove."),
        (70, y + 118, 12, "tiro", "With kind regards"),
        (70, y + 150, 14, "tiit", "Harbour Lane Bindery"),
        (70, y + 240, 9.5, "tiro", "Northhaven Savings Bank, account 20 417 338. Open Monday to Friday, 8 to 5."),
    ]
    return head + rows + foot


def _row(y: float, text: str, pieces: int, price: int) -> list[Line]:
    return [
        (70, y, 12, "tiro", text),
        (330, y, 12, "tiro", str(pieces)),
        (400, y, 12, "tiro", _pounds(price)),
        (476, y, 12, "tiro", _pounds(pieces * price)),
    ]


def _pounds(pence: int) -> str:
    return f"{pence / 100:.2f}"


def _render(lines: list[Line]) -> Image.Image:
    page = pymupdf.open().new_page(width=595, height=780)
    for x, y, size, font, text in lines:
        page.insert_text((x, y), text, fontname=font, fontsize=size)
    for y in (122, 350, 372 + 23 * len(ITEMS) - 10):
        page.draw_line((70, y), (525, y), width=0.8)
    pixmap = page.get_pixmap(dpi=DPI, colorspace=pymupdf.csGRAY)
    return Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)


def _worsen(page: Image.Image) -> Image.Image:
    random = np.random.default_rng(1987)
    turned = page.rotate(TURN_DEGREES, resample=Image.Resampling.BICUBIC, fillcolor=255)
    soft = np.asarray(turned.filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float32)
    height, width = soft.shape
    light = np.linspace(0.99, 0.90, width)[None, :] * np.linspace(1.0, 0.96, height)[:, None]
    noisy = 34 + soft * light * 0.84 + random.normal(0, 5, soft.shape)
    specks = random.random(soft.shape) < 0.00012
    noisy[specks] = random.uniform(60, 150, int(specks.sum()))
    buffer = BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=38)
    grey = np.asarray(Image.open(buffer), dtype=np.uint16)
    levels = (grey * (SHADES - 1) + 127) // 255
    return Image.fromarray((levels * (255 // (SHADES - 1))).astype(np.uint8))


if __name__ == "__main__":
    for made in make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent):
        print(made)
