"""The chat page in headless Chromium: a text, an image that is dropped, an image that comes in, at two widths."""

import base64
import io
import shutil

import pytest

pytest.importorskip("uvicorn", reason="the server's tests need pip install 'armor-eval[serve]'")
pytestmark = pytest.mark.browser

DROP = """
const [data] = arguments, bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), carried = new DataTransfer();
carried.items.add(new File([bytes], "red.png", { type: "image/png" }));
document.getElementById("talk").dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true }));
"""


HALF = """
window.fetch = async (path, { signal }) => new Response(new ReadableStream({ start(stream) {
  stream.enqueue(new TextEncoder().encode('data: {"choices": [{"delta": {"content": "half an answer"}}]}\\n\\n'));
  signal.addEventListener("abort", () => stream.error(signal.reason));
} }));
"""
"""A server that begins an answer and does not go on."""


@pytest.fixture(scope="module")
def driver():
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    browser, service = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    assert browser and service, "Chromium is missing: apt-get install chromium chromium-driver"
    options = Options()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(service))
    yield made
    made.quit()


def test_a_conversation_in_the_page(driver, tmp_path):
    from PIL import Image
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
    from test_model_serve import Served

    from armor_model import GenerationSettings, bundled, load

    red = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(red, format="PNG")
    it = Served(*load(bundled("armor-nano")), GenerationSettings(image_temperature=0.0))

    def turns(kind):
        return driver.find_elements(By.CSS_SELECTOR, f".turn.{kind}")

    def say(text, nth):
        box = driver.find_element(By.ID, "text")
        box.send_keys(text)
        driver.find_element(By.ID, "send").click()
        WebDriverWait(driver, 60).until(lambda _: len(turns("assistant")) == nth and not turns("wait"))
        assert not turns("error")
        return turns("assistant")[-1]

    try:
        for width, height in ((1280, 800), (390, 800)):
            driver.set_window_size(width, height)
            driver.get(it.url)
            WebDriverWait(driver, 20).until(lambda d: d.find_element(By.ID, "model").text == "toy")
            drawn = say("draw a red circle", 1).find_elements(By.TAG_NAME, "img")
            assert len(drawn) == 1 and drawn[0].get_property("naturalWidth") == it.service.side
            assert say("what color is the circle?", 2).text == "red", "the drawing is looked at"
            driver.find_element(By.ID, "reset").click()
            assert not turns("user")
            driver.execute_script(DROP, base64.b64encode(red.getvalue()).decode())
            WebDriverWait(driver, 10).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#held img"))
            assert say("is there a red circle in the image?", 1).text.strip()
            assert len(turns("user")[0].find_elements(By.TAG_NAME, "img")) == 1
            assert not driver.find_elements(By.CSS_SELECTOR, "#held img")
            assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
            driver.save_screenshot(str(tmp_path / f"chat-{width}.png"))
        assert not [entry for entry in driver.get_log("browser") if "favicon" not in entry["message"]]
    finally:
        it.close()


def test_a_new_chat_keeps_nothing_of_an_answer_under_way(driver):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    from armor_model.serve.app import PAGE

    driver.get(PAGE.as_uri())
    driver.execute_script(HALF)
    driver.find_element(By.ID, "text").send_keys("one")
    driver.find_element(By.ID, "send").click()
    answer = WebDriverWait(driver, 60).until(lambda d: d.find_elements(By.CSS_SELECTOR, ".turn.assistant"))[0]
    WebDriverWait(driver, 60).until(lambda _: answer.text.startswith("half an answer"))
    driver.find_element(By.ID, "reset").click()
    WebDriverWait(driver, 60).until(lambda d: d.execute_script("return running === null"))
    assert driver.execute_script("return messages") == [] and not driver.find_elements(By.CSS_SELECTOR, ".turn")
