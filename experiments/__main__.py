"""List the experiments: the modules of this package that can be run."""

import ast
import pkgutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent


def descriptions() -> Iterator[tuple[str, str]]:
    """Yield the name of each module and the first line of its docstring; nothing is imported."""
    for module in pkgutil.iter_modules([str(ROOT)]):
        path = ROOT / module.name
        file = path / "__main__.py" if module.ispkg else path.with_suffix(".py")
        if module.name != "__main__" and file.exists():
            docstring = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
            yield module.name, docstring.partition("\n")[0]


if __name__ == "__main__":
    for name, description in descriptions():
        print(f"python -m {__package__}.{name:16}  {description}")
