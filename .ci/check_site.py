"""Looks through a built site: every link leads to something in it, and nothing is loaded from elsewhere.

    python .ci/check_site.py site

No network connection is needed. Links to other sites are counted and left alone.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


@dataclass
class Page(HTMLParser):
    """One page: what it can be linked to by, what it links to, and what it loads."""

    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Reads the page."""
        super().__init__()
        self.feed(self.path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects anchors, links and what is loaded."""
        given = {name: value or "" for name, value in attrs}
        self.ids.update(filter(None, (given.get("id"), given.get("name"))))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        wanted = given.get(LOADING.get(tag, ""), "")
        if wanted and not (tag == "link" and given.get("rel") == "canonical"):
            self.loaded.append(wanted)


def faults(root: Path) -> tuple[list[str], int, int]:
    """What is wrong in the site below ``root``, one line each; the links looked at; the links that lead elsewhere."""
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html"))}
    found, looked, outside = [], 0, 0
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme in {"http", "https", "mailto"} or parts.netloc:
                outside += 1
                if link in page.loaded:
                    found.append(f"{path.relative_to(root.resolve())} loads {link} from elsewhere")
                continue
            if parts.scheme:  # data:, javascript:
                continue
            looked += 1
            # The page of a server for what is not there is shown at any address, so its links begin at the root.
            start = root if path.name == "404.html" else path.parent
            target = (
                (start / unquote(parts.path).lstrip("/" if start is root else "")).resolve() if parts.path else path
            )
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{path.relative_to(root.resolve())} links to {link}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                found.append(f"{path.relative_to(root.resolve())} links to {link}; the page has no such anchor")
    return found, looked, outside


def main(arguments: list[str]) -> int:
    """Prints the faults; 1 if there are any."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python .ci/check_site.py FOLDER, the site that `mkdocs build` wrote", file=sys.stderr)
        return 2
    root = Path(arguments[0])
    found, looked, outside = faults(root)
    print("\n".join(found))
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(f"{looked} links inside the site, {len(found)} faults; {outside} links lead elsewhere; {size / 1e6:.1f} MB")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
