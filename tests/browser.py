"""Pages looked at in a real browser: a page around them holds one in a frame of each width and says what it finds.

Any browser of the Chromium family will do; nothing is driven from outside. The frames' pages are copies with one script
more, which notes what goes wrong in them.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
WIDTHS = (1400, 390)
SCHEMES = {"dark": 0, "light": 1}
"""What Chromium's setting preferredColorScheme calls them."""

NOTES_PROBLEMS = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => problems.push("blocked: " + event.blockedURI));
console.error = console.warn = (...said) => problems.push(said.join(" "));
</script>"""

PROBE = r"""
const shown = (e) => e.getClientRects().length > 0 &&
  e.checkVisibility({ visibilityProperty: true, opacityProperty: true });

function rgba(text) {
  const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
  return [r, g, b, a];
}

function over(top, ground) {
  return [0, 1, 2].map((k) => top[k] * top[3] + ground[k] * (1 - top[3]));
}

function ground(e, view) {
  const layers = [];
  for (let at = e; at; at = at.parentElement) {
    const colour = rgba(view.getComputedStyle(at).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] === 1) break;
  }
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
}

// https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
function luminance(rgb) {
  const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrasts(doc, view) {
  const found = [];
  for (const e of doc.body.querySelectorAll("*")) {
    const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text || /^(script|style|noscript|option|title)$/i.test(e.tagName) || !shown(e)) continue;
    const style = view.getComputedStyle(e), below = ground(e, view);
    if (style.stroke !== "none" && e.closest("svg")) continue;  // text on pictures has an outline
    const ink = over(rgba(e.closest("svg") ? style.fill : style.color), below);
    const [high, low] = [luminance(ink), luminance(below)].sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), e.tagName.toLowerCase() + ": " + text.slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}

function scrolled(doc) {
  return [...doc.querySelectorAll(".scroll")].filter((s) => s.scrollWidth > s.clientWidth + 1).map((s) => {
    s.scrollLeft = s.scrollWidth;
    const cell = s.querySelector("tbody th");
    const moved = cell ? cell.getBoundingClientRect().left - s.getBoundingClientRect().left : null;
    const words = cell ? cell.closest("table").querySelector("thead").innerText.replace(/\s+/g, " ") : s.className;
    s.scrollLeft = 0;
    return [words, moved];
  });
}

function slid(doc, view) {
  const slider = doc.getElementById("budget");
  if (!slider || !shown(slider)) return [];
  const found = [];
  for (const input of doc.querySelectorAll('input[name="scope"]')) {
    input.click();
    for (let at = 0; at <= Number(slider.max); at++) {
      slider.value = at;
      slider.dispatchEvent(new view.Event("input"));
      found.push({
        scope: input.value, kept: doc.getElementById("kept").textContent,
        figures: [...doc.querySelectorAll("[data-figure-of]")].map((e) => e.textContent),
        row: [...doc.querySelectorAll("tr.now")].map((row) => [...row.cells].map((c) => c.textContent)),
        widths: [...doc.querySelectorAll("#widths td.planned")].map((e) => e.textContent),
        command: doc.getElementById("command").textContent.trim(),
      });
    }
  }
  return found;
}

function sorted(doc) {
  const head = [...doc.querySelectorAll("table.sortable thead th")].find((th) => th.textContent === "MACs");
  const button = head && head.querySelector("button");
  if (!button) return [];
  button.click();
  return [...head.closest("table").tBodies[0].rows].map((row) => row.cells[head.cellIndex].textContent);
}

function look(frame) {
  const view = frame.contentWindow, doc = frame.contentDocument, page = doc.documentElement;
  return {
    wider: page.scrollWidth - page.clientWidth,
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    problems: view.problems ?? null,
    charts: [...doc.querySelectorAll("[data-figure]")].map((place) => [
      place.dataset.figure, place.querySelectorAll(".trace path, .trace .point").length,
      Math.round(place.getBoundingClientRect().width)]),
    contrasts: contrasts(doc, view).slice(0, 6),
    scrolled: scrolled(doc),
    headline: [...doc.querySelectorAll(".card .value")].filter(shown).map((e) => e.innerText),
    tables: [...doc.querySelectorAll("table")].filter(shown).length,
    slid: slid(doc, view),
    sorted: sorted(doc),
    text: doc.body.innerText,
  };
}

addEventListener("load", () => setTimeout(() => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    try { found[frame.title] = look(frame); } catch (error) { found[frame.title] = { failed: String(error) }; }
  }
  document.getElementById("findings").textContent = JSON.stringify(found);
}, 500));
"""


def browser() -> str:
    """The browser; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed ({', '.join(NAMES)})")
    return found


def looked_at(pages: Mapping[str, Path], scheme: str, folder: Path) -> dict[str, dict[str, Any]]:
    """What is found on pages, by ``NAME WIDTH`` and, with scripts switched off, by ``NAME without scripts``."""
    program = browser()
    frames = []
    for name, page in pages.items():
        copy = folder / f"{name}-{scheme}.html"
        copy.write_text(page.read_text().replace("<head>", "<head>" + NOTES_PROBLEMS, 1))
        frames += [_frame(f"{name} {width}", copy, width) for width in WIDTHS]
        frames.append(_frame(f"{name} without scripts", copy, WIDTHS[1], ' sandbox="allow-same-origin"'))
    around = folder / f"around-{scheme}.html"
    around.write_text(
        '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f'{"".join(frames)}<pre id="findings"></pre><script>{PROBE}</script>'
    )
    options = ["--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--allow-file-access-from-files",
               f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
               "--window-size=1500,1200", "--virtual-time-budget=20000", "--dump-dom"]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium refuses to run as root otherwise
    run = subprocess.run([program, *options, around.as_uri()], capture_output=True, text=True, timeout=180, check=False)
    written = re.search(r'<pre id="findings">(.*?)</pre>', run.stdout, re.DOTALL)
    assert written, f"{program} gave no page: {run.stderr[-2000:]}"
    found: dict[str, dict[str, Any]] = json.loads(html.unescape(written[1]))
    return found


def _frame(title: str, page: Path, width: int, more: str = "") -> str:
    return f'<iframe title="{title}" src="{page.as_uri()}" width="{width}" height="1000"{more}></iframe>'
