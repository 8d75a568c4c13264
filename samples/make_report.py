"""Makes report.pdf: a born-digital report with tables, a chart and a page of two columns.

The observatory, its birds and its money are invented. Every total is computed from the rows, so text and tables agree.
The fonts come with PyMuPDF; the file is the same, byte for byte, on every run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymupdf as half_typed

if TYPE_CHECKING:
    from collections.abc import Sequence

pymupdf: Any = half_typed
Page = Any

WIDTH, HEIGHT = pymupdf.paper_size("a4")
MARGIN = 62
INK, ACCENT, PALE = (0.13, 0.16, 0.20), (0.09, 0.36, 0.42), (0.90, 0.94, 0.94)
WHITE = (1.0, 1.0, 1.0)

# month, days with open nets, net-hours, birds ringed, recaptures
MONTHS = (
    ("March", 14, 312, 186, 41),
    ("April", 24, 655, 742, 97),
    ("May", 27, 748, 903, 118),
    ("June", 19, 402, 265, 88),
    ("July", 22, 476, 351, 104),
    ("August", 28, 803, 1127, 162),
    ("September", 29, 861, 1684, 173),
    ("October", 26, 722, 1398, 131),
    ("November", 13, 251, 294, 36),
)
# species, ringed in 2024, ringed in 2025
SPECIES = (
    ("Goldcrest", 611, 1042),
    ("Robin", 873, 918),
    ("Blackcap", 790, 856),
    ("Willow Warbler", 822, 731),
    ("Chiffchaff", 540, 604),
    ("Song Thrush", 388, 402),
    ("Wren", 305, 291),
    ("Redwing", 214, 268),
)
INCOME = (("Members and donors", 18_400), ("County nature fund", 12_000), ("Guided walks", 6_150), ("Shop", 2_380))
SPENDING = (
    ("Warden's salary", 21_600),
    ("Nets, rings and tools", 5_240),
    ("Boat and fuel", 4_375),
    ("Repairs to the hut", 3_910),
    ("Binding of the ledgers", 466),
)

DAYS, NET_HOURS, RINGED, RECAPTURES = (sum(row[column] for row in MONTHS) for column in range(1, 5))  # type: ignore[misc]
BEST = max(MONTHS, key=lambda row: row[3])
SURPLUS = sum(amount for _, amount in INCOME) - sum(amount for _, amount in SPENDING)

CSS = """
* { font-family: serif; color: #21292f; }
body { font-size: 11.5pt; line-height: 1.42; }
h2 { font-family: sans-serif; font-size: 17pt; color: #175c6b; margin: 0 0 8pt 0; }
h3 { font-family: sans-serif; font-size: 12pt; color: #175c6b; margin: 11pt 0 3pt 0; }
p { margin: 0 0 8pt 0; text-align: justify; }
p.lead { font-size: 13.5pt; text-align: left; }
p.small { font-size: 8.5pt; text-align: left; }
"""


def make(folder: Path) -> list[Path]:
    document = pymupdf.open()
    for draw in (_summary, _months, _diary, _species, _money):
        draw(document.new_page(width=WIDTH, height=HEIGHT))
    for number, page in enumerate(document, start=1):
        _frame(page, number, document.page_count)
    stamp = "D:20260115090000Z"
    document.set_metadata(
        {"title": "Skerry Point Bird Observatory: report on 2025", "creationDate": stamp, "modDate": stamp}
    )
    document.subset_fonts()
    path = folder / "report.pdf"
    document.save(path, garbage=4, deflate=True, no_new_id=True)
    return [path]


def _summary(page: Page) -> None:
    page.draw_rect((0, 0, WIDTH, 150), color=None, fill=ACCENT)
    _hills(page)
    _line(page, MARGIN, 72, "Skerry Point Bird Observatory", size=26, font="hebo", color=WHITE)
    _line(page, MARGIN, 98, "Report on the ringing year 2025", size=13, color=WHITE)
    figures = (
        (f"{RINGED:,}", "birds ringed"),
        (f"{len(MONTHS)}", "months in the field"),
        (f"{DAYS}", "days with nets"),
        (f"{NET_HOURS:,}", "net-hours"),
    )
    step = (WIDTH - 2 * MARGIN) / len(figures)
    for index, (figure, label) in enumerate(figures):
        left = MARGIN + index * step
        page.draw_rect((left, 176, left + step - 10, 244), color=None, fill=PALE)
        _line(page, left, 210, figure, size=23, font="hebo", color=ACCENT, width=step - 10)
        _line(page, left, 231, label, size=9.5, width=step - 10)
    _html(
        page,
        (MARGIN, 268, WIDTH - MARGIN, 770),
        f"""<h2>Summary</h2>
        <p class="lead">In 2025 we ringed {RINGED:,} birds on {DAYS} days, more than in any year since the observatory
        opened in 1987. {BEST[0]} alone brought {BEST[3]:,} of them.</p>
        <p>The season began on 8 March, three days late, because a gale had taken the roof of the northern net ride.
        From April on the nets stood open whenever wind and rain allowed it. Volunteers gave 1,460 hours of work;
        without them the hut would stay closed.</p>
        <p>The surprise of the year was the Goldcrest. A long spell of light easterly winds at the end of September
        carried thousands of them across the sea. On 28 September we ringed 214 birds in one day, 163 of them
        Goldcrests, each of about five and a half grams.</p>
        <p>We handled {RECAPTURES} birds that already wore a ring. Most were our own, but eleven came from other
        countries. A Blackcap that was ringed here as a young bird in 2019 returned for the sixth spring in a row.</p>
        <p>The accounts close with a surplus of {SURPLUS:,} pounds. The committee proposes to put it aside for a new
        boat engine, which will be needed before the season of 2027.</p>
        <h3>In this report</h3>
        <p>Page 2 shows the year month by month. Page 3 holds notes from the warden's diary. Page 4 lists the
        commonest species, and page 5 gives the accounts and the plans for 2026.</p>""",
    )


def _months(page: Page) -> None:
    _html(
        page,
        (MARGIN, 70, WIDTH - MARGIN, 180),
        f"""<h2>Birds through the year</h2><p>The nets stood open from March to November. The table counts each day on
        which at least one net was open for an hour or more. A net-hour is one net of twelve metres, open for one hour.
        Over the whole season we ringed {RINGED / NET_HOURS:.2f} birds in each net-hour.</p>""",
    )
    rows = [(month, str(days), f"{hours:,}", f"{ringed:,}", str(again)) for month, days, hours, ringed, again in MONTHS]
    total = ("Whole year", str(DAYS), f"{NET_HOURS:,}", f"{RINGED:,}", str(RECAPTURES))
    bottom = _table(page, 190, ("Month", "Days", "Net-hours", "Ringed", "Recaptures"), [*rows, total], first=150)
    _chart(page, (MARGIN, bottom + 44, WIDTH - MARGIN, bottom + 240))
    _html(
        page,
        (MARGIN, bottom + 262, WIDTH - MARGIN, 780),
        f"""<p>Two waves are plain to see. The spring wave reached its height in May; the autumn wave was almost twice
        as high and reached its own in {BEST[0]}. In June and July few birds travel, and the nets were moved to the
        reedbed, where we follow the local breeding birds.</p>""",
    )


def _diary(page: Page) -> None:
    _html(page, (MARGIN, 70, WIDTH - MARGIN, 104), "<h2>Notes from the warden's diary</h2>")
    gutter = 24
    middle = WIDTH / 2
    left = """<h3>8 March</h3><p>First nets of the year. Frost on the poles, no wind at all. Nine birds before
        breakfast, six of them Robins. The new roof of the northern ride held through the night, which is more than
        the old one did.</p>
        <h3>19 April</h3><p>Willow Warblers everywhere. They came down at dawn with the drizzle and fed along the wall
        like mice. We closed two rides at nine, because three ringers cannot work for more than four nets on such a
        morning. Seventy-one birds by noon.</p>
        <h3>11 May</h3><p>The old Blackcap is back. His ring is worn thin, but the number can still be read with a lens.
        He has now crossed the Mediterranean at least twelve times.</p>
        <h3>23 June</h3><p>A class of twenty-two children from the island school came with the morning boat. Each of
        them let one Wren or Reed Bunting fly from the open hand. One girl asked whether the bird would remember her.
        I said that I would ask it next spring.</p>"""
    right = """<h3>30 August</h3><p>Wind from the south-west, warm, with showers. A Wryneck sat on the fence for an hour
        and never came near a net. It does not have to: it is in the log all the same, as the fourth for the skerry.</p>
        <h3>28 September</h3><p>The day of the Goldcrests. They sat in the bracken, on the hut, on our sleeves. At first
        light each net held thirty. We opened only three and still needed five people until two in the afternoon.
        214 rings, a record for one day.</p>
        <h3>17 October</h3><p>Redwings all night; one hears them more than one sees them. By lamplight the first
        Woodcock of the autumn stood on the path and let us pass.</p>
        <h3>22 November</h3><p>Nets down, poles oiled, bags washed. The generator goes to the mainland for repair. The
        last bird of the year was a Robin, as the first had been. I do not think that it was the same one.</p>"""
    _html(page, (MARGIN, 110, middle - gutter / 2, 780), left)
    _html(page, (middle + gutter / 2, 110, WIDTH - MARGIN, 780), right)
    page.draw_line((middle, 118), (middle, 585), color=PALE, width=1.2)


def _species(page: Page) -> None:
    _html(
        page,
        (MARGIN, 70, WIDTH - MARGIN, 160),
        """<h2>The commonest species</h2><p>Eight species make up most of the birds that we ringed. The last column
        compares 2025 with the year before. Small changes mean little: one windy week at the wrong time is
        enough.</p>""",
    )
    rows = [(name, f"{before:,}", f"{now:,}", f"{(now - before) / before:+.0%}") for name, before, now in SPECIES]
    bottom = _table(page, 166, ("Species", "2024", "2025", "Change"), rows, first=190, total=False)
    eight = sum(now for _, _, now in SPECIES)
    _html(
        page,
        (MARGIN, bottom + 24, WIDTH - MARGIN, 780),
        f"""<p>Together these eight account for {eight:,} birds, which is {eight / RINGED:.0%} of all that we ringed.
        The other {RINGED - eight:,} belong to 71 further species, from Stonechat to Long-eared Owl.</p>
        <h3>What the figures say</h3>
        <p>The Goldcrest moved from fourth place to the first. It is a bird of good and bad years: a mild winter and a
        good crop of spruce seed in the north are followed by a large movement in the autumn after.</p>
        <p>The Willow Warbler went down for the third year in a row. The ringing stations further south report the same.
        We think that dry springs on its way through the Sahel are the cause, but one station cannot show that.</p>
        <h3>How we count</h3>
        <p>A bird counts as ringed when it gets a ring from us. A bird that wears one already counts as a recapture,
        once for each day. Birds that are only seen stand in the log and not in this report. The full ledgers, one
        volume for each season, can be read in the hut on any open day.</p>""",
    )


def _money(page: Page) -> None:
    _html(page, (MARGIN, 70, WIDTH - MARGIN, 104), "<h2>Accounts and plans</h2>")
    bottom = _ledger(page, 108, "Income", INCOME)
    bottom = _ledger(page, bottom + 22, "Spending", SPENDING)
    _html(
        page,
        (MARGIN, bottom + 18, WIDTH - MARGIN, 780),
        f"""<p>Income was higher than spending by {SURPLUS:,} pounds. All amounts are in pounds and have been checked
        by two members who do not sit on the committee.</p>
        <h3>Plans for 2026</h3>
        <p>The nets will open on 7 March. We shall add a third ride in the willows and take part in the count of night
        migrants by sound: two microphones on the roof of the hut will record from dusk to dawn, and a computer on the
        mainland will sort the calls overnight.</p>
        <p>The path from the landing place needs new steps. Whoever can lift a stone is welcome on the weekend of 25 and
        26 April; soup is provided.</p>
        <h3>Thanks</h3>
        <p>To the 38 volunteers, to the ferry crew who never left anyone behind, and to the people of the island, who
        still ring the hut whenever an odd bird sits in the garden.</p>
        <p class="small">Skerry Point is an invented place. This report was written to try document software
        with.</p>""",
    )


def _ledger(page: Page, top: float, name: str, entries: tuple[tuple[str, int], ...]) -> float:
    rows = [(label, f"{amount:,}") for label, amount in entries]
    total = (f"Total {name.lower()}", f"{sum(amount for _, amount in entries):,}")
    return _table(page, top, (name, "Pounds"), [*rows, total], first=330)


def _table(
    page: Page,
    top: float,
    head: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    *,
    first: float,
    total: bool = True,
) -> float:
    """Draws a ruled table and gives back its lower edge; the last row is a total unless told otherwise."""
    row_height = 20
    step = (WIDTH - 2 * MARGIN - first) / (len(head) - 1)
    page.draw_rect((MARGIN, top, WIDTH - MARGIN, top + row_height), color=None, fill=ACCENT)
    for index, row in enumerate([head, *rows]):
        y = top + index * row_height
        bold = index == 0 or (total and index == len(rows))
        color = WHITE if index == 0 else INK
        font = "hebo" if bold else "helv"
        _line(page, MARGIN + 8, y + 14, row[0], size=9.5, font=font, color=color)
        for column, cell in enumerate(row[1:], start=1):
            right = MARGIN + first + column * step - 8
            _line(
                page, right - pymupdf.get_text_length(cell, font, 9.5), y + 14, cell, size=9.5, font=font, color=color
            )
        page.draw_line(
            (MARGIN, y + row_height), (WIDTH - MARGIN, y + row_height), color=ACCENT if bold else PALE, width=0.8
        )
    return top + (len(rows) + 1) * row_height


def _chart(page: Page, area: tuple[float, float, float, float]) -> None:
    x0, y0, x1, y1 = area
    base = y1 - 18
    _line(page, x0, y0 - 12, "Birds ringed in each month", size=10.5, font="hebo", color=ACCENT)
    scale = (base - y0 - 16) / BEST[3]
    step = (x1 - x0) / len(MONTHS)
    for index, (month, _, _, ringed, _) in enumerate(MONTHS):
        left, top = x0 + index * step, base - ringed * scale
        page.draw_rect((left + 9, top, left + step - 9, base), color=None, fill=ACCENT)
        _line(page, left, top - 4, f"{ringed:,}", size=8, width=step)
        _line(page, left, base + 12, month[:3], size=8.5, width=step)
    page.draw_line((x0, base), (x1, base), color=INK, width=0.8)


def _hills(page: Page) -> None:
    page.draw_circle((WIDTH - 72, 62), 24, color=None, fill=(0.96, 0.83, 0.52))
    shape = page.new_shape()
    shape.draw_bezier((250, 150), (360, 70), (430, 140), (WIDTH, 96))
    shape.draw_line((WIDTH, 96), (WIDTH, 150))
    shape.draw_line((WIDTH, 150), (250, 150))
    shape.finish(color=None, fill=(0.06, 0.27, 0.32))
    shape.commit()


def _frame(page: Page, number: int, count: int) -> None:
    if number > 1:
        _line(page, MARGIN, 44, "Skerry Point Bird Observatory · 2025", size=8.5, color=ACCENT)
        page.draw_line((MARGIN, 52), (WIDTH - MARGIN, 52), color=PALE, width=1)
    _line(page, 0, HEIGHT - 34, f"{number} / {count}", size=9, color=ACCENT, width=WIDTH)


def _line(
    page: Page,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    font: str = "helv",
    color: tuple[float, float, float] = INK,
    width: float = 0,
) -> None:
    """One line of text on the baseline y; centred where a width is given."""
    if width:
        x += (width - pymupdf.get_text_length(text, font, size)) / 2
    page.insert_text((x, y), text, fontname=font, fontsize=size, color=color)


def _html(page: Page, box: tuple[float, float, float, float], html: str) -> None:
    spare, _ = page.insert_htmlbox(pymupdf.Rect(box), html, css=CSS, scale_low=1)
    assert spare >= 0, f"the text does not fit into {box}"


if __name__ == "__main__":
    for made in make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent):
        print(made)
