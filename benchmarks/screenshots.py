"""Screenshots: a report as a picture in light, dark, on a phone and in print, made by the chromium that is installed.

``python benchmarks/screenshots.py runs/NAME --out docs/report.png`` makes the picture of the README anew.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

QUIET = "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking"
SIZES = {"light": (1200, 12000), "dark": (1200, 12000), "phone": (390, 16000)}
_PHONE = '<!doctype html><body style="margin:0"><iframe style="width:{}px;height:{}px;border:0" src="{}"></iframe>'


def main() -> None:
    """Make the pictures that were asked for, and say how many sheets the page takes in print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run, or a report.html")
    parser.add_argument("--out", type=Path, help="write the upper part in light as this picture, and nothing else")
    parser.add_argument("--height", type=int, default=1500, help="pixels of the page that --out shows")
    parser.add_argument("--folder", type=Path, default=Path("screenshots"), help="where all pictures go without --out")
    given = parser.parse_args()
    page = given.run if given.run.suffix == ".html" else given.run / "report.html"
    if not page.is_file():
        sys.exit(f"{page}: no such page; write it with `robustdeploy report {given.run}`")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("no chromium on this machine")
    if given.out:
        taken(browser, page, "light", given.out, given.height)
        print(f"{given.out} is written")
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    for look in SIZES:
        height = taken(browser, page, look, given.folder / f"{look}.png", SIZES[look][1])
        print(f"{given.folder / look}.png is written, {height:,} pixels tall")
    printed = given.folder / "print.pdf"
    to_pdf = ["--no-pdf-header-footer", f"--print-to-pdf={printed.resolve()}", uri(page)]
    subprocess.run([browser, *QUIET.split(), *to_pdf], check=True, capture_output=True, timeout=120)
    sheets = re.findall(rb"/Type /Page\b", printed.read_bytes())
    print(f"{printed} is written, of {len(sheets)} sheets; the page has {page.stat().st_size:,} bytes")


def taken(browser: str, page: Path, look: str, picture: Path, height: int) -> int:
    """Take one picture and return its height; what a page leaves empty below its end is cut off."""
    width = SIZES[look][0]
    with tempfile.TemporaryDirectory() as scratch:
        shown = uri(page)
        if look == "phone":  # windows have a least width, which is wider than a phone
            frame = Path(scratch) / "phone.html"
            frame.write_text(_PHONE.format(width, height, shown), encoding="utf-8")
            shown = uri(frame)
        dark = ["--blink-settings=preferredColorScheme=0"] if look == "dark" else []
        size = f"--window-size={max(width, 500)},{height}"
        command = [browser, *QUIET.split(), *dark, size, f"--screenshot={picture.resolve()}", shown]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(picture) as drawn:
        whole = drawn.convert("RGB").crop((0, 0, width, drawn.height))
    pixels = np.asarray(whole)
    drawn_on = np.flatnonzero((pixels != pixels[:, :1]).any(axis=(1, 2)))
    end = min(whole.height, int(drawn_on[-1]) + 24)
    whole.crop((0, 0, width, end)).save(picture)
    return end


def uri(path: Path) -> str:
    """Return the address of a file."""
    return path.resolve().as_uri()


if __name__ == "__main__":
    main()
