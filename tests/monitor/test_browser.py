"""The monitor's page in a real browser: Chromium, where it is installed."""

import os
import shutil

import pytest

from tests.support.hosting import HOSTS
from tests.support.waiting import wait_until

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="there is no chromium with its chromedriver"
)

NASTY = "<script>document.title='hacked'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(profile)  # What it leaves there is not ours.
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    if before is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before
    HOSTS.add(service.process.pid)
    yield driver
    HOSTS.discard(service.process.pid)
    driver.quit()


def text(browser, id):
    return browser.execute_script(
        "return document.getElementById(arguments[0]).innerText", id
    )


def rows(browser):
    """Return the table's cells."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#rows tr')]"
        ".map(row => [...row.children].map(cell => cell.textContent))"
    )


def complaints(browser):
    return [entry["message"] for entry in browser.get_log("browser")]


def test_numbers_clients_and_lock(browser, server):
    holder, waiter = server.connect(), server.connect()
    holder.post("set_client_label", "the holder")
    waiter.post("set_client_label", "the waiter")
    for number in range(1, 4):
        holder.commit(number, oids=(number,))
    for _ in range(5):
        holder.wait_for(holder.load(1))
    for client, oid in ((holder, 9), (waiter, 10)):
        client.begin(9, oids=(oid,))
    holder.ask("vote", 9)
    waiter.call("vote", 9)
    browser.get("http://{}:{}/".format(*server.monitor))
    wait_until(lambda: text(browser, "health") == "serving")
    wait_until(lambda: "the waiter" in text(browser, "queue"))
    assert "the holder, voted, for " in text(browser, "holder")
    first, second = rows(browser)
    assert first[0] == "the holder" and first[1].startswith("holds the lock, ")
    assert second[0] == "the waiter" and second[1].startswith("waits for the lock, ")
    assert first[7:10] == ["5", "3", "0"]
    tiles = text(browser, "tiles").split("\n")
    assert tiles[tiles.index("Clients") + 1 :][:2] == ["2", "2 in a transaction"]
    # It looks again by itself.
    holder.ask("tpc_finish", 9)
    wait_until(lambda: "the waiter, voted" in text(browser, "holder"))
    wait_until(lambda: text(browser, "queue") == "Nobody")
    drawn = "return document.querySelectorAll('#charts .line').length"
    wait_until(lambda: browser.execute_script(drawn) >= 6)
    assert complaints(browser) == []


def test_names_of_clients_are_text(browser, server):
    client = server.connect()
    client.post("set_client_label", NASTY)
    client.begin(1)
    client.ask("vote", 1)
    browser.get("http://{}:{}/".format(*server.monitor))
    (row,) = wait_until(lambda: rows(browser))
    assert row[0] == NASTY
    assert text(browser, "holder").startswith(NASTY)
    made = (
        "return document.querySelectorAll('img, #clients script, main script').length"
    )
    assert browser.execute_script(made) == 0
    assert browser.title == "1 clients \u00b7 Zeolite"
    # Even if it were HTML, the policy would not let it run.
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = "
        "\"document.title = 'hacked'\"; document.body.append(s)"
    )
    assert browser.title != "hacked"
    assert any("Content Security Policy" in entry for entry in complaints(browser))


def test_finding_and_sorting(browser, server):
    for label, loads in (("a", 2), ("b", 20), ("c", 7)):
        client = server.connect()
        client.post("set_client_label", label)
        client.commit(1, oids=(loads,))
        for _ in range(loads):
            client.wait_for(client.load(loads))
    browser.get("http://{}:{}/".format(*server.monitor))
    wait_until(lambda: len(rows(browser)) == 3)
    heads = {
        head.text.rstrip(" \u2191\u2193"): head
        for head in browser.find_elements("css selector", "th button")
    }
    heads["Loads"].click()
    assert [row[0] for row in rows(browser)] == ["b", "c", "a"]
    heads["Loads"].click()
    assert [row[0] for row in rows(browser)] == ["a", "c", "b"]
    browser.find_element("id", "filter").send_keys("b")
    assert [row[0] for row in rows(browser)] == ["b"]
    assert text(browser, "count") == "1 of 3"


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_200_clients_at_every_width(browser, server, size, scheme):
    for number in range(200):
        client = server.connect()
        client.post("set_client_label", f"a client with a rather long name {number}")
    client.ask("ping")
    emulate = browser.execute_cdp_cmd
    emulate(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": size[0],
            "height": size[1],
            "deviceScaleFactor": 1,
            "mobile": size[0] < 500,
        },
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    emulate("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        browser.get("http://{}:{}/".format(*server.monitor))
        wait_until(lambda: len(rows(browser)) == 200)
        wide, width, color = browser.execute_script(
            "const root = document.documentElement; "
            "return [root.scrollWidth, root.clientWidth, "
            "getComputedStyle(document.body).backgroundColor]"
        )
        assert wide == width <= size[0], "it scrolls sideways"
        dark = sum(map(int, color[4:-1].split(","))) < 200
        assert dark is (scheme == "dark")
    finally:
        emulate("Emulation.clearDeviceMetricsOverride", {})
        emulate("Emulation.setEmulatedMedia", {"features": []})


def test_server_that_goes_away_and_comes_back(browser, serve):
    server = serve()
    browser.get("http://{}:{}/".format(*server.monitor))
    wait_until(lambda: text(browser, "health") == "serving")
    server.server._monitor.close()
    wait_until(lambda: "no answer" in text(browser, "health"))
    complaints(browser)
