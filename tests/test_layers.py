"""The rooms and their arrows: who may import whom, which files may import torch and triton, and how long a file is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "luthier"
MAY_IMPORT = {
    "core": set(),
    "recipe": {"core"},
    "data": {"core", "recipe"},
    "kernels": {"core"},
    "models": {"core", "kernels"},
    "train": {"core", "recipe", "data", "kernels", "models"},
    "curate": {"core", "recipe", "data"},
    "evaluate": {"core", "recipe", "data", "kernels", "models"},
    "stages": {"core", "recipe", "data", "curate", "models", "train", "evaluate"},
    "serve": {"core", "recipe", "data", "models", "train"},
    "cli": {"core", "recipe", "data", "curate", "models", "train", "evaluate", "stages", "serve"},
}
NO_TORCH = ("core/", "recipe/", "data/", "curate/", "cli/__init__.py")
TORCH_ANYWAY = ("data/collate.py",)
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports(text: str) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, as dotted names (imported names appended)."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_arrows(file: str, text: str) -> list[str]:
    """What a file of the package imports and may not."""
    room = file.split("/")[0] if "/" in file else None
    wrong = []
    for name in imports(text):
        parts = name.split(".")
        if parts[0] == "luthier" and room is not None and len(parts) > 1:
            target = parts[1]
            if target != room and target not in MAY_IMPORT[room] and target != "__version__":
                wrong.append(f"{file} imports luthier.{target}")
        if parts[0] == "torch" and file.startswith(NO_TORCH) and file not in TORCH_ANYWAY:
            wrong.append(f"{file} imports torch")
        if parts[0] == "triton" and not (room == "kernels" and file.endswith("triton.py")):
            wrong.append(f"{file} imports triton")
    return wrong


@pytest.mark.parametrize("file", FILES)
def test_imports_follow_the_arrows(file: str) -> None:
    assert wrong_arrows(file, (PACKAGE / file).read_text()) == []


def test_a_wrong_arrow_is_seen_even_when_lazy() -> None:
    assert wrong_arrows("core/x.py", "def f():\n    from luthier.train import loop\n") == [
        "core/x.py imports luthier.train"
    ]
    assert wrong_arrows("recipe/x.py", "import torch.nn") == ["recipe/x.py imports torch"]
    assert wrong_arrows("models/x.py", "from triton import jit") == ["models/x.py imports triton"]
    assert wrong_arrows("train/x.py", "import luthier.models.spec") == []


def test_every_room_is_listed() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("file", FILES)
def test_files_are_short(file: str) -> None:
    assert len((PACKAGE / file).read_text().splitlines()) <= 400


UNSAFE_CALLS = {"torch.load", "pickle.load", "pickle.loads", "eval", "exec", "os.system", "yaml.load"}
# A template can fail in any way, and `tokenizers` raises the bare class: both are answered with an error of ours.
MAY_CATCH_ALL = {"data/template_worker.py", "data/tokenizer_file.py"}


def unsafe(file: str, text: str) -> list[str]:
    """Unsafe calls, remote code, environment variables, and handlers that catch everything."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] * (name in UNSAFE_CALLS)
            found += [k.arg for k in node.keywords if k.arg == "trust_remote_code" and ast.unparse(k.value) != "False"]
        elif isinstance(node, ast.ExceptHandler):
            caught = "everything" if node.type is None else ast.unparse(node.type)
            if caught in ("everything", "Exception") and file not in MAY_CATCH_ALL:
                found.append(f"except {caught}")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("file", FILES)
def test_nothing_unsafe(file: str) -> None:
    assert unsafe(file, (PACKAGE / file).read_text()) == []


def test_unsafe_code_is_seen() -> None:
    text = "try:\n    torch.load('x')\nexcept Exception:\n    f(os.environ['A'], trust_remote_code=True)\n"
    assert sorted(unsafe("core/x.py", text)) == ["except Exception", "os.environ", "torch.load", "trust_remote_code"]
