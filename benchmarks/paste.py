"""`python -m benchmarks.paste`: puts what was measured into the pages of docs/, and the pictures beside them.

A page has `<!-- FILE -->`, what is to be replaced by that file, and `<!-- end -->`. A file that is not there leaves the
page as it is.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_PLACE = re.compile(r"(?<=^<!-- )(build/\S+\.md)( -->\n).*?(?=^<!-- end -->$)", re.MULTILINE | re.DOTALL)
_PICTURES = Path("build/bench")


def main() -> None:
    for page in sorted(Path("docs").glob("*.md")):
        text = page.read_text()
        if (new := _PLACE.sub(_pasted, text)) != text:
            page.write_text(new)
            print(page)
    for picture in sorted(_PICTURES.glob("*.png")):
        print(shutil.copy(picture, Path("docs/images") / picture.name))


def _pasted(found: re.Match[str]) -> str:
    file = Path(found[1])
    return f"{found[1]}{found[2]}{file.read_text()}" if file.exists() else found[0]


if __name__ == "__main__":
    main()
