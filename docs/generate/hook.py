"""What mkdocs is told beside mkdocs.yml: the pages that are made from the package, and where the package is.

The repository's root is the package `headscope`, under another name and beside much that is not part of it. So that
docstrings can be read without importing, its modules are copied to a folder of that name for the time of the build.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import notebook_pages
import reference_packages
import reference_pages
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
PROJECT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
_LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)(#[^)\s]*)?(\))")
_PAPER = re.compile(r"(?<![\w\[`/])arXiv:(\d{4}\.\d{5})(?![^\[\n]*\]\()")
_TITLES = {
    "headscope": "The front door",
    "methods": "Scores",
    "circuit-methods": "Circuits",
    "interventions": "Interventions",
    "steering": "Steering",
    "command-line": "Command line",
    "jobs": "Job files",
    "recipes": "Recipes",
    "errors": "Errors",
}
_made: dict[str, Any] = {}


@event_priority(100)  # before mkdocstrings reads where to look
def on_config(config: Any) -> Any:
    """Copy the package's modules, and put the generated pages into the navigation."""
    _made["folder"] = tempfile.mkdtemp(prefix="headscope-docs-")
    copy_package(Path(_made["folder"]))
    python = config.plugins["mkdocstrings"].config.handlers["python"]
    python["paths"] = [_made["folder"]]
    reference: list[Any] = ["reference/index.md"]
    reference += [{title: f"reference/{page}.md"} for page, title in _TITLES.items()]
    reference.append(
        {"Modules": [{name: f"reference/api/{name}.md"} for name in reference_packages.packages()]}
    )
    notebooks: list[Any] = ["notebooks/index.md"]
    notebooks += [f"notebooks/{path.stem}.md" for path in notebook_pages.notebooks()]
    project = [f"project/{page}" for source, page in PROJECT.items() if (ROOT / source).exists()]
    project += ["licences.md"] if (ROOT / "docs" / "licences.md").exists() else []
    generated = {"Reference": reference, "Notebooks": notebooks, "Project": project}
    for section in config.nav:
        for title in section:
            section[title] = generated.get(title, section[title])
    return config


def copy_package(folder: Path) -> None:
    """Copy the modules that are documented, and the front door, to `folder/headscope`."""
    top = folder / "headscope"
    top.mkdir()
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ROOT / name, top / name)
    for package in reference_packages.packages():
        inner = "/".join(package.split(".")[1:])
        (top / inner).mkdir(parents=True, exist_ok=True)
        (top / inner / "__init__.py").touch()  # datasets/ has none
        for file in (ROOT / inner).glob("*.py"):
            shutil.copy(file, top / inner / file.name)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    for page, text in reference_pages.pages().items():
        files.append(File.generated(config, f"reference/{page}.md", content=text))
    for page, content in notebook_pages.pages().items():
        files.append(File.generated(config, f"notebooks/{page}", content=content))
    for source, page in PROJECT.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, f"project/{page}", content=(ROOT / source).read_text()))
    files.append(File.generated(config, "assets/icon.svg", abs_src_path=str(ROOT / "app" / "icon.svg")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to files beside docs/, which a code host follows as they are, to their pages on the site."""
    source = page.file.src_uri
    if page.parent is None:  # nothing stands beside it
        page.meta["hide"] = ["navigation"]
    if not source.startswith(("reference/", "notebooks/")):
        markdown = _PAPER.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", markdown)
    if source.startswith("project/"):  # these stand in the root
        at, markdown = "", re.sub(r"(\]\()(?!https?:|#)([^)\s]+)(\))", r"\1../\2\3", markdown)
    else:
        at = posixpath.join("docs", posixpath.dirname(source))

    def lead(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(at or "docs", match[2]))
        known = page_of(target)
        if known is None:
            return match[0]
        path, _, anchor = known.partition("#")
        relative = posixpath.relpath(path, posixpath.dirname(source) or ".")
        return f"{match[1]}{relative}{'#' + anchor if anchor else match[3] or ''}{match[4]}"

    return _LINK.sub(lead, markdown)


def page_of(target: str) -> str | None:
    """The page that shows a file of the repository, if there is one."""
    if found := re.fullmatch(r"notebooks/(\w+)\.ipynb", target):
        return f"notebooks/{found[1]}.md"
    if found := re.fullmatch(r"jobs/recipes/(\w+)\.yaml", target):
        return f"reference/recipes.md#{found[1]}"
    if target in ("jobs/recipes", "notebooks"):
        return {"jobs/recipes": "reference/recipes.md", "notebooks": "notebooks/index.md"}[target]
    if target in PROJECT:
        return f"project/{PROJECT[target]}"
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return "index.md" if target == "README.md" else None


def on_post_build(config: Any) -> None:
    """Remove the copy, and the addresses from which the theme's script would fetch more on pages that ask for it."""
    shutil.rmtree(_made.pop("folder"), ignore_errors=True)
    for script in Path(config.site_dir).rglob("assets/javascripts/*.js"):
        text = script.read_text(encoding="utf-8")
        script.write_text(re.sub(r"https://unpkg\.com/[\w@./-]+", "about:blank", text), encoding="utf-8")
    for unneeded in Path(config.site_dir).rglob("*.map"):
        unneeded.unlink()
    shutil.rmtree(Path(config.site_dir, "assets", "javascripts", "lunr"))  # the search in other languages


def on_build_error(error: Exception) -> None:
    """Remove the copy also then."""
    if "folder" in _made:
        shutil.rmtree(_made.pop("folder"), ignore_errors=True)
