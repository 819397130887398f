"""Headless Chromium driven over its DevTools pipe: pages are opened, keys pressed, events kept."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

KEYS = {
    "ArrowRight": 39,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowDown": 40,
    "Home": 36,
    "End": 35,
    "Tab": 9,
    "Enter": 13,
    " ": 32,
}


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A running browser, or a skipped test where none is installed."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("MEDAD_REQUIRE_BROWSER"):
            pytest.fail("MEDAD_REQUIRE_BROWSER is set and chromium is not installed")
        pytest.skip("chromium is not installed")
    with Browser(found, profile) as running:
        yield running


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are beyond the descriptors that the browser knows."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


class Browser:
    """One page of a browser that no name server is reachable from."""

    def __init__(self, path: str, profile: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self._number, self._unread = 0, b""
        (commands, self._commands), (self._answers, answers) = _pipe(), _pipe()
        # The browser reads descriptor 3 and writes 4, whatever ours are called.
        wiring = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        self._process = subprocess.Popen(
            [
                *("bash", "-c", wiring, path),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._session = ""

    def __enter__(self) -> Browser:
        try:
            self._attach()
        except BaseException:
            self._stop()
            raise
        return self

    def _attach(self) -> None:
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._answers)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._until(lambda found: found.get("id") == self._number, method)

    def _until(self, wanted: Any, what: str, seconds: float = 120) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while b"\0" in self._unread:
                text, _, self._unread = self._unread.partition(b"\0")
                found = json.loads(text)
                if "id" not in found:
                    self.events.append(found)
                if wanted(found):
                    if "error" in found:
                        raise AssertionError(f"{what}: {found['error']}")
                    return dict(found.get("result", found))
            if select.select([self._answers], [], [], 1)[0]:
                part = os.read(self._answers, 1 << 20)
                if not part:
                    raise AssertionError(f"{what}: the browser has gone")
                self._unread += part
        raise AssertionError(f"{what}: no answer in {seconds} s")

    def open(self, page: Path) -> None:
        """Open a page and wait until it and its pictures are there."""
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri())
        self._until(lambda found: found.get("method") == "Page.loadEventFired", "load")
        self.run("Promise.all([...document.images].map((each) => each.decode().catch(() => 0)))")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """A key as a person presses it."""
        code = KEYS[key]
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.send(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code="Space" if key == " " else key,
                    windowsVirtualKeyCode=code,
                    nativeVirtualKeyCode=code,
                )

    def show_as(self, scheme: str, width: int = 1280, height: int = 900) -> None:
        """``light`` or ``dark``, in a window of some size."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self, **options: Any) -> bytes:
        """What is shown, as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", **options)["data"])

    def print(self) -> bytes:
        """The page on paper, as PDF."""
        answer = self.send("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(answer["data"])

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened, less those inside of it."""
        sent = [each for each in self.events if each["method"] == "Network.requestWillBeSent"]
        found = [each["params"]["request"]["url"] for each in sent]
        return [address for address in found if not address.startswith("data:")]

    def complaints(self) -> list[Any]:
        """Errors and warnings of the console since the page was opened."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [each["params"] for each in self.events if each["method"] in kinds]
