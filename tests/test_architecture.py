"""The shape of the code (DESIGN.md): imports go one way, heavy libraries have one home, files stay small."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gdseg"
FILES = sorted(PACKAGE.rglob("*.py"))
# A module may import from its own layer and from lower ones.
LAYERS = {
    0: ["__init__", "errors", "files", "lock", "runs", "recipe", "recipe_yaml", "recipe_rules", "recipe_table", "draws", "structures", "device", "words"],
    1: ["losses"],
    2: ["data", "models", "view", "polygons"],
    3: ["infer", "eval", "predict", "export", "coco_json", "writers", "map_writers", "layouts"],
    4: ["train"],
    5: ["report"],
    6: ["bench", "doctor", "cli", "__main__"],
}  # fmt: skip
LAYER = {name: number for number, names in LAYERS.items() for name in names}
HOMES = {
    "rich": {"cli", "train/log.py"},
    "torch.distributed": {"train/distributed.py"},
    "matplotlib": {"view"},
    "timm": {"models/backbone.py", "models/backbone_weights.py"},
}


def imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    return names + [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]


def layer_of(module: str) -> int:
    return LAYER[module.split(".")[1]] if "." in module else 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = LAYER[path.relative_to(PACKAGE).parts[0].removesuffix(".py")]
    if path == PACKAGE / "__init__.py":
        return  # the lazy public names, for type checkers only
    for module in imports(path):
        if module == "gdseg" or module.startswith("gdseg."):
            assert layer_of(module) <= own, f"{path.name} imports {module}"


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_its_home(library):
    for path in FILES:
        where = path.relative_to(PACKAGE)
        if any(name == library or name.startswith(library + ".") for name in imports(path)):
            assert {str(where), where.parts[0]} & HOMES[library], f"{where} imports {library}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_small_and_documented(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    tree = ast.parse(text)
    assert not text or ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
            assert length <= 6 or node.name.startswith("_") or ast.get_docstring(node), (
                f"{node.name} says nothing"
            )
