"""One JupyterLab and one browser for all tests of this folder."""

import shutil

import pytest

from tests.browser.lab import ROOT, serve


# Not for the whole session: playwright's event loop would stand in the way of other tests.
@pytest.fixture(scope="package")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder)
    with serve(folder) as lab:
        yield lab
