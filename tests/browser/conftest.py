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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """After a failure: what the reader would have seen, in words and as a screenshot."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and (lab := getattr(item, "funcargs", {}).get("lab")):
        report.sections += [("a notebook, as the test left it", seen) for seen in lab.look()]
    return report
