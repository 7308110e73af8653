"""report.html and the comparison of runs in Chromium: what mouse and keyboard show, and nothing is fetched.

Wants Debian's packages chromium and chromium-driver; see tests/run.py for machines without them.
"""

import io
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from nepa_keras.visualization import top_p_filter, write_comparison, write_report
from nepa_keras.visualization.patches import unit
from tests.helpers import tiny

pytestmark = pytest.mark.once

ROWS, COLUMNS = 4, 5
SHAPE = (4 * ROWS, 4 * COLUMNS, 1)
HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
VIRIDIS = np.array(
    [
        (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140),
        (40, 174, 128), (94, 201, 98), (173, 220, 48), (253, 231, 37),
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.fail("These tests need Debian's packages chromium and chromium-driver.")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "disable-dev-shm-usage", "window-size=1200,1000", "force-device-scale-factor=1",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The model, its images, and the page."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    folder.mkdir()
    (folder / "flags.txt").write_text(f"# KERAS_BACKEND=jax python a.py\n--data={HOSTILE}\n")
    (folder / "log.csv").write_text("step,loss,val_loss\n10,-0.2,-0.1\n20,-0.4,-0.3\n")
    Image.new("RGB", (300, 200), "teal").save(folder / "similarity.png")
    keras.utils.set_random_seed(1337)
    model, images = tiny.pretrainer(), tiny.images(2, SHAPE)
    write_report(folder, model, images, ["boot", HOSTILE], {"Worth": [("a", "b"), ("c", "1")]})
    return model, images, (folder / "report.html").as_uri()


@pytest.fixture
def page(browser, report):
    """The page as it is when it was just opened."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    emulate(browser, theme="light")
    browser.get(report[2])
    until(browser, lambda: said(browser).startswith("boot, row 3, column 3; block 1, "))
    return browser


def emulate(browser, width: int = 1200, theme: str = "light") -> None:
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def until(browser, holds) -> None:
    WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: holds())


def at(browser, name: str):
    return browser.find_element(By.ID, name)


def said(browser) -> str:
    return at(browser, "said").text


def pixels(browser, canvas: str) -> np.ndarray:
    """(rows, columns, 4) of a canvas."""
    script = """const canvas = document.getElementById(arguments[0]);
    return [canvas.height, canvas.width,
            ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]"""
    height, width, *values = browser.execute_script(script, canvas)
    return np.array(values).reshape(height, width, 4)


def colors(values: np.ndarray, even: float, seen=None) -> np.ndarray:
    """Colours that a map of T values has, (rows, columns, 4); its scale has 8 even shares at least."""
    place = values / max(values.max(), min(8 * even, 1.0)) * (len(VIRIDIS) - 1)
    channels = [np.interp(place, np.arange(len(VIRIDIS)), VIRIDIS[:, i]) for i in range(3)]
    rgba = np.stack([*channels, np.full_like(place, 255)], axis=-1)
    if seen is not None:
        rgba[~seen] = 0
    return rgba.reshape(ROWS, COLUMNS, 4)


def attention(report, query: int, image: int = 0, layer: int = 1, head: int = 0) -> np.ndarray:
    """Attention of the model itself to the patches; head 0 is the mean."""
    model, images, _ = report
    (rows,) = keras.ops.convert_to_numpy(
        model.backbone.activations(images[[image]])["attentions"][layer]
    )
    row = rows.mean(axis=0)[1 + query] if head == 0 else rows[head - 1, 1 + query]
    return row[1:]


def cosines(report, query: int, image: int = 0, layer: int = 1) -> np.ndarray:
    model, images, _ = report
    found = model.backbone.activations(images[[image]])
    predicted = model.backbone.norm(found["hidden_states"][1 + layer])
    embeddings, predicted = (
        unit(keras.ops.convert_to_numpy(x)) for x in (found["embeddings"], predicted)
    )
    return embeddings[0, 1:] @ predicted[0, 1 + query]


def shares(values: np.ndarray, temperature: float = 0.1, top_p: float = 1.0) -> np.ndarray:
    weights = np.exp((values - values.max()) / temperature)
    return top_p_filter(weights / weights.sum(), top_p)


def until_maps_are(browser, report, query, temperature=0.1, top_p=1.0, head=0, **which) -> None:
    """Waits until both maps have the colours that the model's numbers give, but for packing."""
    seen = np.arange(ROWS * COLUMNS) <= query
    wanted = {
        "attention": colors(attention(report, query, head=head, **which), 1 / (2 + query), seen),
        "prediction": colors(
            shares(cosines(report, query, **which), temperature, top_p), 1 / (ROWS * COLUMNS)
        ),
    }

    def match():
        return all(np.abs(pixels(browser, k) - v).max() <= 6 for k, v in wanted.items())

    until(browser, match)


def cell(browser, patch: int):
    return browser.find_elements(By.CSS_SELECTOR, "#grid [role=gridcell]")[patch]


def test_hover_click_and_touch_of_a_map_choose_the_patch(page, report):
    until_maps_are(page, report, 12)
    ActionChains(page).move_to_element(cell(page, 7)).perform()
    until_maps_are(page, report, 7)
    assert said(page).startswith("boot, row 2, column 3; block 1, mean of all heads.")
    ActionChains(page).move_to_element(cell(page, 9)).click().perform()
    until(page, lambda: "row 2, column 5, kept" in said(page))
    ActionChains(page).move_to_element(cell(page, 0)).perform()
    assert "row 2, column 5, kept" in said(page)
    until_maps_are(page, report, 9)
    ActionChains(page).move_to_element(cell(page, 9)).click().move_to_element(
        cell(page, 1)
    ).perform()
    until_maps_are(page, report, 1)
    at(page, "prediction").click()  # in its middle
    until(page, lambda: ", kept" in said(page))


def test_the_keyboard_reaches_all(page, report):
    """Arrows, Home and End move, Enter keeps, Escape lets go; one patch is in the tab order."""
    in_order = page.find_elements(By.CSS_SELECTOR, "#grid [tabindex='0']")
    assert in_order == [cell(page, 12)]
    in_order[0].send_keys(Keys.ARROW_RIGHT, Keys.ARROW_UP)
    until_maps_are(page, report, 8)
    assert page.switch_to.active_element == cell(page, 8)
    for keys, patch in (
        ((Keys.HOME,), 5),
        ((Keys.END,), 9),
        ((Keys.ARROW_RIGHT,), 9),  # the end of its row
        ((Keys.CONTROL, Keys.HOME), 0),
        ((Keys.CONTROL, Keys.END), 19),
    ):
        ActionChains(page).send_keys("").key_down(keys[0]).send_keys(keys[-1]).key_up(
            keys[0]
        ).perform() if len(keys) > 1 else page.switch_to.active_element.send_keys(keys[0])
        until(page, lambda patch=patch: page.switch_to.active_element == cell(page, patch))
    assert "This is the last patch, so there is no next one." in said(page)
    until_maps_are(page, report, 19)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    until(page, lambda: ", kept" in said(page))
    assert cell(page, 19).get_attribute("aria-selected") == "true"
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(page, lambda: ", kept" not in said(page))
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.execute_script(outline) == "solid"


def test_controls_choose_block_head_temperature_and_share(page, report):
    Select(at(page, "head")).select_by_visible_text("Head 1")
    until_maps_are(page, report, 12, head=2)
    at(page, "layer").send_keys(Keys.ARROW_LEFT)
    until_maps_are(page, report, 12, head=2, layer=0)
    assert "block 0, head 1." in said(page)
    at(page, "temperature").send_keys(*[Keys.ARROW_RIGHT] * 14)  # of 0.05 powers of ten
    until_maps_are(page, report, 12, head=2, layer=0, temperature=10**-0.3)
    assert at(page, "temperature-value").text == "0.50"
    at(page, "top-p").send_keys(*[Keys.ARROW_LEFT] * 10)
    until_maps_are(page, report, 12, head=2, layer=0, temperature=10**-0.3, top_p=0.5)
    page.execute_script(
        "arguments[0].click()", at(page, "images").find_elements(By.TAG_NAME, "input")[1]
    )
    until_maps_are(page, report, 12, head=2, layer=0, temperature=10**-0.3, top_p=0.5, image=1)


def test_words_and_table_say_what_the_model_says(page, report):
    looked, found = attention(report, 12), cosines(report, 12)
    names = [f"row {i // COLUMNS + 1}, column {i % COLUMNS + 1}" for i in range(ROWS * COLUMNS)]
    words = said(page)
    most = int(looked.argmax())
    assert f"It looks most at {'itself' if most == 12 else names[most]}: " in words
    assert f"most like {names[int(found.argmax())]}: cosine {found.max():.2f}" in words
    rank = int((found > found[13]).sum()) + 1
    assert f"The true next patch, {names[13]}, is number {rank} of 20" in words
    lines = at(page, "strongest").find_elements(By.TAG_NAME, "tr")
    table = [[c.text for c in line.find_elements(By.CSS_SELECTOR, "th, td")] for line in lines]
    assert len(table) == 5
    order = np.argsort(-found)
    assert [line[3] for line in table] == [names[i] for i in order[:5]]
    for line, patch in zip(table, order, strict=False):
        assert abs(float(line[5]) - found[patch]) < 6e-3
        assert abs(float(line[4].rstrip(" %")) / 100 - shares(found)[patch]) < 0.015


def check_fetched(browser, address: str) -> None:
    """Only the page itself and what it holds were asked for, and no error was logged."""
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    }
    assert address in asked and all(u == address or u.startswith("data:") for u in asked), asked


def test_the_report_fetches_nothing_and_logs_no_error(page, report):
    at(page, "layer").send_keys(Keys.ARROW_LEFT)
    until_maps_are(page, report, 12, layer=0)
    check_fetched(page, report[2])
    resources = page.execute_script(
        "return performance.getEntriesByType('resource').map((e) => e.name)"
    )
    assert all(name.startswith("data:") for name in resources)
    assert page.title == "Report of a run"
    texts = [label.text for label in at(page, "images").find_elements(By.TAG_NAME, "label")]
    assert texts == ["boot", HOSTILE]


def test_screen_readers_hear_names_and_roles(page):
    page.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    heard = {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    }
    for wanted in (
        ("main", ""), ("banner", ""), ("heading", "a run"), ("heading", "Patch by patch"),
        ("radio", "boot"), ("slider", "Block"), ("combobox", "Attention head"),
        ("slider", "Temperature"), ("slider", "Top-p"), ("button", "Dark theme"),
        ("grid", "Patches of boot, 4 rows and 5 columns"), ("gridcell", "Patch at row 4, column 5"),
        ("link", "Skip to the content"), ("columnheader", "cosine"),
    ):  # fmt: skip
        assert wanted in heard, f"{wanted} of {sorted(heard)}"
    roles = [role for role, _ in heard]
    assert "status" in roles and "row" in roles
    for role in ("image", "slider", "button", "combobox", "radio", "gridcell", "region", "grid"):
        assert all(name for heard_role, name in heard if heard_role == role), role
    images = [name for role, name in heard if role == "image"]
    for start in ("Loss: training from", "Images in rows", "Map of attention. It looks most"):
        assert any(name.startswith(start) for name in images), images


def screenshot(element) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"), "int32")


def test_a_screenshot_shows_the_maps(page, report):
    until_maps_are(page, report, 12)
    for name, wanted in (
        ("prediction", colors(shares(cosines(report, 12)), 1 / (ROWS * COLUMNS))),
        ("attention", colors(attention(report, 12), 1 / 14)),
    ):
        shot = screenshot(at(page, name))
        height, width = np.array(shot.shape[:2]) // (ROWS, COLUMNS)
        assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 8
        for patch in (0, 6, 11):  # seen by patch 12, and not outlined
            row, column = divmod(patch, COLUMNS)
            middle = shot[int((row + 0.5) * height), int((column + 0.5) * width)]
            assert np.abs(middle - wanted[row, column, :3]).max() <= 6
    hidden = screenshot(at(page, "attention"))[-height:, -width:]
    assert len(np.unique(hidden.reshape(-1, 3), axis=0)) > 1  # hatched, not a value
    picture = screenshot(at(page, "picture"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert (np.abs(picture - (255, 138, 43)).max(axis=-1) < 3).sum() > 100  # the outline


def test_light_and_dark_by_the_system_and_by_the_button(page, report):
    def background():
        return screenshot(page.find_element(By.TAG_NAME, "header"))[0, 0].mean()

    assert background() > 230
    at(page, "theme").click()
    assert background() < 50 and at(page, "theme").text == "Light theme"
    emulate(page, theme="dark")
    page.refresh()
    assert background() < 50
    at(page, "theme").click()
    assert background() > 230
    for _ in range(2):
        for selector in (".lead", "h2", "summary", "dt", "#said", "output", "th", "figcaption"):
            assert contrast(page, selector) >= 4.5, selector
        at(page, "theme").click()


def contrast(browser, selector: str) -> float:
    """Contrast of an element's text with the first background that is not transparent (WCAG 2)."""
    found = browser.execute_script(
        """let element = document.querySelector(arguments[0]);
        const color = getComputedStyle(element).color;
        let back = "rgba(0, 0, 0, 0)";
        for (; element && back === "rgba(0, 0, 0, 0)"; element = element.parentElement)
          back = getComputedStyle(element).backgroundColor;
        return [color, back].map((text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number))""",
        selector,
    )
    linear = np.array(found) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_the_report_fits_the_screen(page, width):
    emulate(page, width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    for name in ("picture", "attention", "prediction"):
        assert at(page, name).size["width"] > 120


def test_results_are_read_on_a_phone_without_scrolling(browser, tmp_path):
    """Each row is a card at 390 px, with the names of the columns; a screen reader still hears a table."""
    heads = (
        "k-NN accuracy on validation images in %",
        "before",
        "after training",
        "change",
        "seeds",
    )
    rows = [
        ("averaged weights of the last step", "11.93 ± 0.05", "57.41 ± 0.61", "+45.48", "3")
    ] * 2
    emulate(browser, 390)
    browser.get(write_report(tmp_path, tables={"Worth": [heads, *rows]}).as_uri())
    table = browser.find_element(By.CSS_SELECTOR, "table.stacked")
    box = table.find_element(By.XPATH, "..")
    assert browser.execute_script(
        "return arguments[0].scrollWidth <= arguments[0].clientWidth", box
    )
    cell = table.find_element(By.CSS_SELECTOR, "td")
    assert "11.93" in cell.text and cell.size["width"] > 250
    label = "return getComputedStyle(arguments[0], '::before').content"
    assert browser.execute_script(label, cell) == '"before"'
    roles = [e.aria_role for e in table.find_elements(By.CSS_SELECTOR, "tbody *")]
    assert table.aria_role == "table" and roles[:3] == ["row", "rowheader", "cell"]
    assert table.find_element(By.CSS_SELECTOR, "thead th").text == heads[0]
    emulate(browser, 1200)
    assert browser.execute_script(label, cell) == "none"


def test_hidden_patches_have_no_rank(page, report):
    """Patch 1 sees two patches, so two are ranked by attention, and five by the prediction."""
    ActionChains(page).move_to_element(cell(page, 1)).perform()
    until_maps_are(page, report, 1)
    lines = at(page, "strongest").find_elements(By.TAG_NAME, "tr")
    looked, found = (
        [line.find_elements(By.CSS_SELECTOR, "th, td")[column].text for line in lines]
        for column in (1, 3)
    )
    assert sorted(looked) == ["", "", "", "row 1, column 1", "row 1, column 2"] and all(found)


def test_without_javascript_all_but_the_explorer_is_there(page, report):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get(report[2])
        assert "switched off in this browser" in page.find_element(By.TAG_NAME, "noscript").text
        assert not at(page, "explorer").is_displayed() and not at(page, "theme").is_displayed()
        charts = page.find_elements(By.TAG_NAME, "svg")
        assert charts and all(chart.is_displayed() for chart in charts)
        assert len(np.unique(screenshot(charts[0]).reshape(-1, 3), axis=0)) > 5
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_model_that_does_not_predict_and_sees_all(browser, tmp_path):
    """A bidirectional classifier: no patch is hidden from attention, and the page says what the map is."""
    import nepa_keras

    classifier = nepa_keras.NepaImageClassifier(tiny.backbone(use_causal_mask=False), num_classes=3)
    tiny.spread_weights(classifier)
    images = tiny.images(1, SHAPE)
    browser.get(write_report(tmp_path, classifier, images).as_uri())
    until(browser, lambda: said(browser).startswith("Image 1, row 3, column 3"))
    assert "trained for another task" in at(browser, "about").text
    wanted = colors(attention((classifier, images, None), 12), 1 / (1 + ROWS * COLUMNS))
    until(browser, lambda: np.abs(pixels(browser, "attention") - wanted).max() <= 6)
    assert Path(tmp_path, "report.html").exists()


def test_runs_are_compared_on_screens_of_any_width(browser, tmp_path):
    """A box hides a run's lines; themes are the report's; whatever flags and names hold, no script runs."""
    folders = [tmp_path / "first", tmp_path / "<img src=x onerror=alert(1)>"]
    for i, folder in enumerate(folders):
        folder.mkdir()
        lines = [
            f"--data={HOSTILE}",
            f"--model={i}{'/long' * 40}",
            *(f"--flag_{k}={i}" for k in range(9)),
        ]
        command = "# KERAS_BACKEND=jax python pretrain.py"
        (folder / "flags.txt").write_text("\n".join([command, *lines]) + "\n")
        (folder / "log.csv").write_text("step,loss,val_loss\n10,-0.2,-0.1\n20,-0.4,-0.3\n")
        Image.new("RGB", (900, 500), "teal").save(folder / "similarity.png")
    write_report(folders[0], tables={HOSTILE: [("a", HOSTILE), (HOSTILE, HOSTILE)]})
    address = write_comparison(folders, tmp_path / "page.html").as_uri()
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    emulate(browser, 390)
    browser.get(address)
    for width in (390, 1200):
        emulate(browser, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.title == f"first and {folders[1].name}"

    lines = browser.find_elements(By.CSS_SELECTOR, "svg polyline")
    shown = [line.value_of_css_property("display") for line in lines]
    assert shown == ["inline"] * 4
    assert len({line.value_of_css_property("stroke") for line in lines}) == 2  # a colour for a run
    box = at(browser, "show-2")
    assert box.accessible_name == folders[1].name
    box.send_keys(Keys.SPACE)
    shown = [line.value_of_css_property("display") for line in lines]
    assert sorted(shown) == ["inline", "inline", "none", "none"]
    for _ in range(2):
        for selector in ("h2", "h3", "legend", ".runs label", "tbody th", "td", "figcaption"):
            assert contrast(browser, selector) >= 4.5, selector
        at(browser, "theme").click()
    check_fetched(browser, address)
