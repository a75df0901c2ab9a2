"""One JupyterLab and one browser for all tests of this folder."""

import time
from pathlib import Path

import pytest

from tests.browser.lab import HOSTILE_SETUP, ROOT, SETUP, TINY_SETUP, serve


# Not for the whole session: playwright's event loop would stand in the way of other tests.
@pytest.fixture(scope="package")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    folder.mkdir()
    with serve(folder) as lab:
        yield lab


@pytest.fixture(scope="session")
def executed(request):
    """Finds a lesson as nbval ran and compared it; without `--executed`, as it is stored."""
    folder = request.config.getoption("--executed", None)

    def found(name: str) -> Path:
        if folder is None:
            return ROOT / "notebooks" / name
        # Lessons are run before the browser's tests, but by other processes too.
        deadline = time.monotonic() + 300
        while not (folder / name).exists() and time.monotonic() < deadline:
            time.sleep(1)
        return folder / name

    return found


# A notebook with a kernel for each kind of model, which all explorers' tests share:
#     explorer = real.show("lv.Stepper(model, tokenizer, 'I enjoy walking')")


@pytest.fixture(scope="package")
def real(lab):
    """The course's own model. `real.show(source)` shows an explorer in it."""
    yield from _with_kernel(lab, SETUP)


@pytest.fixture(scope="package")
def small(lab):
    """A tiny model that answers at once, such as for the keyboard's tests."""
    yield from _with_kernel(lab, TINY_SETUP)


@pytest.fixture(scope="package")
def hostile(lab):
    """A tiny model whose tokens try to run; `prompt` is as bad."""
    yield from _with_kernel(lab, HOSTILE_SETUP)


def _with_kernel(lab, setup):
    with lab.notebook(lab.write(setup)) as notebook:
        notebook.run_all()
        yield notebook


@pytest.fixture
def opened(lab, tmp_path):
    """Opens an explorer's page; fails if it asks for anything, or says anything in the console."""
    page, heard = lab.page(), []
    page.heard = heard
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url))

    def opens(explorer, scheme="light", width=960):
        path = explorer.to_html(tmp_path / "page.html")
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri())
        page.locator(".llmviz").wait_for()
        heard.remove(path.as_uri())
        return page

    yield opens
    page.close()
    assert not heard


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """After a failure: what the reader would have seen, in words and as a screenshot."""
    report = yield
    if report.failed and (lab := getattr(item, "funcargs", {}).get("lab")):
        report.sections += [("a notebook, as the test left it", seen) for seen in lab.look()]
    return report
