"""Image files: huge by their header, huge when unpacked, endless, or not what they say."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

from PIL import Image

from tests.readers.hostile import case

if TYPE_CHECKING:
    from collections.abc import Iterable

PNG = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, RGBA: 4}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *, colour: int = GREY, bits: int = 8, extra: bytes = b"", body: bytes = b"") -> bytes:
    """A PNG of that header; without `body` it ends after its first pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(768)) if colour == PALETTE else b""
    content = body or zlib.compress(bytes(100))
    return PNG + chunk(b"IHDR", header) + palette + extra + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """So many zero bytes, deflated: about a thousandth."""
    check = 1 + (size % 65521 << 16)  # Adler-32 of zeros
    return b"\x78\xda" + deflated(b"\0", size) + struct.pack(">I", check)


def deflated(filling: bytes, size: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """Raw deflate data of `size` bytes of filling, or a little more. A block is packed once and repeated."""
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = filling * max(1, (1 << 20) // len(filling))
    packed = machine.compress(before) + machine.flush(zlib.Z_FULL_FLUSH)
    again = machine.compress(block) + machine.flush(zlib.Z_FULL_FLUSH)
    rest = filling * -(-(size % len(block)) // len(filling))
    return packed + again * (size // len(block)) + machine.compress(rest + after) + machine.flush()


def whole_png(width: int, height: int, *, colour: int, bits: int = 8) -> bytes:
    """A PNG that holds every pixel that it claims."""
    row = 1 + (width * CHANNELS[colour] * bits + 7) // 8
    return png(width, height, colour=colour, bits=bits, body=zeros(row * height))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    made = io.BytesIO()
    image.save(made, format, **options)
    return made.getvalue()


def patched(content: bytes, *patches: tuple[int, bytes]) -> bytes:
    changed = bytearray(content)
    for at, piece in patches:
        changed[at : at + len(piece)] = piece
    return bytes(changed)


def jpeg(width: int, height: int, *, progressive: bool = False) -> bytes:
    """A JPEG whose header claims a size that its data do not fill."""
    made = saved(Image.new("RGB", (64, 64), "white"), "JPEG", progressive=progressive, subsampling=0)
    frame = made.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    return patched(made, (frame + 5, struct.pack(">HH", height, width)))


def tiff(*directories: Iterable[tuple[int, int, int, bytes]], next_offsets: dict[int, int] | None = None) -> bytes:
    """A little-endian TIFF of these directories of (tag, type, count, value of 4 bytes), one after the other.

    `next_offsets` says for which directory (from 0) the link leads elsewhere.
    """
    made, at = bytearray(b"II*\0" + struct.pack("<I", 8)), 8
    for number, directory in enumerate(directories):
        entries = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in directory)
        size = 2 + len(entries) + 4
        at += size
        is_last = number == len(directories) - 1
        link = (next_offsets or {}).get(number, 0 if is_last else at)
        made += struct.pack("<H", len(entries) // 12) + entries + struct.pack("<I", link)
    return bytes(made)


def short(value: int) -> bytes:
    return struct.pack("<HH", value, 0)


def long(value: int) -> bytes:
    return struct.pack("<I", value)


def page(width: int, height: int, **changes: tuple[int, int, bytes]) -> list[tuple[int, int, int, bytes]]:
    """A directory of a grey picture; `changes` by tag (as t258) replace entries: (type, count, value)."""
    tags = {
        256: (4, 1, long(width)),
        257: (4, 1, long(height)),
        258: (3, 1, short(8)),
        259: (3, 1, short(1)),
        262: (3, 1, short(1)),
        273: (4, 1, long(8)),
        277: (3, 1, short(1)),
        278: (4, 1, long(height)),
        279: (4, 1, long(width * height & 0xFFFFFFFF)),
    }
    tags.update({int(name[1:]): value for name, value in changes.items()})
    return [(tag, *tags[tag]) for tag in sorted(tags)]


@case("png_claims_100000x100000.png", "image_too_large")
def _() -> bytes:
    return png(100_000, 100_000)


@case("png_claims_2147483647x1.png", "image_too_large")
def _() -> bytes:
    return png(2**31 - 1, 1)


@case("png_one_pixel_wide_100000000_high.png", "image_too_large read_memory ok source_damaged")
def _() -> bytes:
    return png(1, 100_000_000)


@case("png_rgba_14000x14000.png", "image_too_large ok", heavy=True)
def _() -> bytes:
    return whole_png(14_000, 14_000, colour=RGBA)


@case("png_rgb_14000x14000.png", "image_too_large ok", heavy=True)
def _() -> bytes:
    return whole_png(14_000, 14_000, colour=RGB)


@case("png_rgba16_14000x14000.png", "image_too_large ok", heavy=True)
def _() -> bytes:
    return whole_png(14_000, 14_000, colour=RGBA, bits=16)


@case("png_grey16_14000x14000.png", "image_too_large ok", heavy=True)
def _() -> bytes:
    return whole_png(14_000, 14_000, colour=GREY, bits=16)


@case("png_grey_14000x14000.png", "image_too_large ok", heavy=True)
def _() -> bytes:
    return whole_png(14_000, 14_000, colour=GREY)


@case("png_palette_14000x14000.png", "image_too_large ok", heavy=True)
def _() -> bytes:
    return whole_png(14_000, 14_000, colour=PALETTE)


@case("png_1bit_14000x14000.png", "image_too_large ok", heavy=True)
def _() -> bytes:
    return whole_png(14_000, 14_000, colour=GREY, bits=1)


@case("png_strip_200000x900.png", "image_too_large ok", heavy=True)
def _() -> bytes:
    return whole_png(200_000, 900, colour=RGB)


@case("png_text_bomb.png", "ok source_damaged")
def _() -> bytes:
    """A comment of 500 MB, and a colour profile as large."""
    bomb = zeros(500_000_000)
    extra = chunk(b"zTXt", b"Comment\0\0" + bomb) + chunk(b"iCCP", b"profile\0\0" + bomb)
    return png(10, 10, extra=extra, body=zlib.compress(bytes(110)))


@case("png_pixels_of_a_gigabyte_in_ten.png", "ok source_damaged")
def _() -> bytes:
    """More pixel data than the header has room for."""
    return png(10, 10, body=zeros(1_000_000_000))


@case("png_chunk_says_4_gigabytes.png", "source_damaged")
def _() -> bytes:
    made = png(10, 10)
    return patched(made, (made.index(b"IDAT") - 4, b"\xff\xff\xff\xff"))


@case("apng_of_20000_frames.png", "ok source_damaged")
def _() -> bytes:
    frames = b"".join(chunk(b"fcTL", struct.pack(">IIIIIHHBB", n, 10, 10, 0, 0, 1, 10, 0, 0)) for n in range(0, 20_000))
    extra = chunk(b"acTL", struct.pack(">II", 20_000, 0)) + frames
    return png(10, 10, extra=extra, body=zlib.compress(bytes(110)))


@case("apng_says_4_billion_frames.png", "ok source_damaged")
def _() -> bytes:
    extra = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    extra += chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 10, 10, 0, 0, 1, 10, 0, 0))
    return png(10, 10, extra=extra, body=zlib.compress(bytes(110)))


@case("jpeg_claims_65500x65500.jpg", "image_too_large")
def _() -> bytes:
    return jpeg(65_500, 65_500)


@case("jpeg_claims_14000x14000.jpg", "source_damaged image_too_large ok", heavy=True)
def _() -> bytes:
    return jpeg(14_000, 14_000)


@case("jpeg_progressive_claims_14000x14000.jpg", "source_damaged image_too_large", heavy=True)
def _() -> bytes:
    return jpeg(14_000, 14_000, progressive=True)


@case("jpeg_progressive_of_2000_scans.jpg", "ok source_damaged image_too_large read_timeout", heavy=True)
def _() -> bytes:
    """The same scan again and again over a large picture: each costs a pass over all of it."""
    made = saved(Image.new("RGB", (3000, 3000), "white"), "JPEG", progressive=True, subsampling=0)
    last = made.rindex(b"\xff\xda")
    scan = made[last:-2]
    return made[:-2] + scan * 2000 + b"\xff\xd9"


@case("jpeg_zero_lines.jpg", "source_damaged image_invalid")
def _() -> bytes:
    return jpeg(100, 0)


@case("gif_screen_65535x65535.gif", "image_too_large")
def _() -> bytes:
    made = saved(Image.new("P", (4, 4)), "GIF")
    return patched(made, (6, struct.pack("<HH", 65_535, 65_535)))


@case("gif_frame_larger_than_its_screen.gif", "image_too_large source_damaged")
def _() -> bytes:
    made = saved(Image.new("P", (4, 4)), "GIF")
    frame = made.index(b"\x2c", 13 + 6)
    return patched(made, (frame + 5, struct.pack("<HH", 65_535, 65_535)))


@case("gif_screen_14000x14000.gif", "image_too_large ok", heavy=True)
def _() -> bytes:
    made = saved(Image.new("P", (4, 4)), "GIF", transparency=0)
    return patched(made, (6, struct.pack("<HH", 14_000, 14_000)))


@case("gif_of_50000_frames.gif", "ok")
def _() -> bytes:
    made = saved(Image.new("P", (4, 4)), "GIF")
    frame = made[made.index(b"\x2c", 13 + 6) : -1]
    return made[:-1] + frame * 49_999 + b"\x3b"


@case("gif_without_frames.gif", "source_damaged")
def _() -> bytes:
    return saved(Image.new("P", (4, 4)), "GIF")[:13] + b"\x3b"


@case("webp_claims_16383x16383.webp", "image_too_large source_damaged")
def _() -> bytes:
    return _webp(16_383, 16_383)


@case("webp_claims_14000x14000.webp", "image_too_large source_damaged", heavy=True)
def _() -> bytes:
    return _webp(14_000, 14_000)


def _webp(width: int, height: int) -> bytes:
    made = saved(Image.new("RGB", (8, 8), "red"), "WEBP", lossless=True)
    start = made.index(b"VP8L") + 9  # after size and signature: 14 bits each of width and height, less 1
    bits = int.from_bytes(made[start : start + 4], "little") >> 28 << 28
    return patched(made, (start, (bits | (height - 1) << 14 | width - 1).to_bytes(4, "little")))


@case("webp_of_5000_frames.webp", "ok", heavy=True)
def _() -> bytes:
    frames = [Image.new("RGB", (8, 8), (n % 256, n // 256, 0)) for n in range(5000)]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


@case("bmp_claims_60000x60000.bmp", "image_too_large")
def _() -> bytes:
    made = saved(Image.new("RGB", (4, 4)), "BMP")
    return patched(made, (18, struct.pack("<ii", 60_000, 60_000)))


@case("bmp_of_negative_size.bmp", "source_damaged image_invalid image_too_large")
def _() -> bytes:
    made = saved(Image.new("RGB", (4, 4)), "BMP")
    return patched(made, (18, struct.pack("<ii", -4, -(2**31))))


@case("jp2_claims_60000x60000.jp2", "image_too_large")
def _() -> bytes:
    return _jp2(60_000, 60_000)


@case("jp2_claims_12000x12000.jp2", "image_too_large source_damaged read_memory", heavy=True)
def _() -> bytes:
    return _jp2(12_000, 12_000)


def _jp2(width: int, height: int) -> bytes:
    made = saved(Image.new("RGB", (64, 64), "red"), "JPEG2000")
    box, size = made.index(b"ihdr") + 4, made.index(b"\xff\x51") + 6
    code = struct.pack(">II", width, height)
    return patched(made, (box, struct.pack(">II", height, width)), (size, code), (size + 16, code))


@case("jp2_component_said_twice_as_wide.jp2", "image_too_large source_damaged ok")
def _() -> bytes:
    """A small picture in the box, a large one in the code stream."""
    made = saved(Image.new("RGB", (64, 64), "red"), "JPEG2000")
    size = made.index(b"\xff\x51") + 6
    return patched(made, (size, struct.pack(">II", 40_000, 40_000)))


@case("avif_claims_40000x40000.avif", "image_too_large source_damaged")
def _() -> bytes:
    made = saved(Image.new("RGB", (64, 64), "red"), "AVIF")
    return patched(made, (made.index(b"ispe") + 8, struct.pack(">II", 40_000, 40_000)))


@case("tiff_claims_100000x100000.tif", "image_too_large")
def _() -> bytes:
    return tiff(page(100_000, 100_000))


@case("tiff_claims_14000x14000.tif", "image_too_large source_damaged ok", heavy=True)
def _() -> bytes:
    return tiff(page(14_000, 14_000))


@case("tiff_directory_links_to_itself.tif", "ok source_damaged")
def _() -> bytes:
    return tiff(page(4, 4), next_offsets={0: 8})


@case("tiff_directories_in_a_circle.tif", "ok source_damaged")
def _() -> bytes:
    return tiff(page(4, 4), page(5, 5), next_offsets={1: 8})


@case("tiff_of_30000_pages.tif", "too_many_pages ok", heavy=True)
def _() -> bytes:
    return tiff(*[page(2, 2)] * 30_000)


@case("tiff_says_4_billion_strips.tif", "source_damaged read_memory")
def _() -> bytes:
    return tiff(page(4, 4, t273=(4, 2**32 - 1, struct.pack("<I", 8)), t279=(4, 2**32 - 1, struct.pack("<I", 8))))


@case("tiff_says_65535_samples.tif", "source_damaged ok image_too_large")
def _() -> bytes:
    return tiff(page(4, 4, t277=(3, 1, struct.pack("<HH", 65_535, 0))))


@case("tiff_offsets_beyond_the_end.tif", "source_damaged")
def _() -> bytes:
    return tiff(page(4, 4, t273=(4, 1, struct.pack("<I", 2**31))))


@case("tiff_second_page_is_a_bomb.tif", "image_too_large")
def _() -> bytes:
    """Only its first page is small."""
    return tiff(page(4, 4), page(100_000, 100_000))


@case("tiff_deflated_float_8000x8000.tif", "ok source_damaged image_too_large", heavy=True)
def _() -> bytes:
    packed = zeros(8000 * 8000 * 4)
    directory = page(
        8000,
        8000,
        t258=(3, 1, struct.pack("<HH", 32, 0)),
        t259=(3, 1, struct.pack("<HH", 8, 0)),
        t273=(4, 1, struct.pack("<I", 8 + 2 + 12 * 10 + 4)),
        t279=(4, 1, struct.pack("<I", len(packed))),
        t339=(3, 1, struct.pack("<HH", 3, 0)),
    )
    return tiff(directory) + packed
