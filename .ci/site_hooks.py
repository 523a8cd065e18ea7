"""For MkDocs: what lies beside docs/ comes into the site, and drawings stand in their pages.

The pages are read on the code host, too, so they link to ``../examples/…`` and show drawings as pictures. Here the
linked files are taken along, and drawings are put into the page, where they follow its colours.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_PICTURE = re.compile(r'<p>\s*<img alt="([^"]*)" src="([^"]+\.svg)"\s*/?>\s*</p>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the two pages at the root, and the examples as files to download."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    for path in sorted((ROOT / "examples").rglob("*")):
        if path.suffix in {".py", ".ipynb"} and not path.name.startswith("."):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they lead from inside the site; a link to a folder of examples leads to their list."""
    if page.file.src_uri in PAGES.values():
        return re.sub(r"\]\(docs/", "](", markdown)
    markdown = re.sub(r"\]\(\.\./(CONTRIBUTING|CHANGELOG)\.md", lambda m: f"]({PAGES[m[1] + '.md']}", markdown)
    markdown = re.sub(r"\]\(\.\./examples/(?:plugins|notebooks)/?\)", "](examples.md)", markdown)
    return markdown.replace("](../examples/", "](examples/")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts drawings (SVG files of the class ``fig``) into the page, with the alternative text as their label."""
    folder = (Path(config.docs_dir) / page.file.src_uri).parent

    def drawing(picture: re.Match[str]) -> str:
        source = (folder / picture[2]).resolve()
        text = source.read_text() if source.is_file() else ""
        if 'class="fig"' not in text:
            return picture[0]
        labelled = text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{picture[1]}"', 1)
        return f'<div class="figure">{labelled}</div>'

    return _PICTURE.sub(drawing, html)
