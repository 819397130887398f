"use strict";
// Sliders, the slice browser and the two switches of the pictures. The page reads without it: every
// picture then shows its overlay.
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  const viewName = (value) =>
    value === 0 ? "image" : value === 100 ? "map" : value === 50 ? "overlay"
      : value < 50 ? `image, map at ${2 * value} %` : `map, image at ${2 * (100 - value)} %`;

  // 0 shows the image, 50 the map over it, 100 the map alone.
  const setView = (figure, value) => {
    const slider = figure.querySelector(".view-slider");
    slider.value = value;
    figure.style.setProperty("--map", Math.min(1, value / 50));
    figure.style.setProperty("--image", Math.min(1, (100 - value) / 50));
    slider.setAttribute("aria-valuetext", viewName(value));
    figure.querySelector(".view-text").textContent = viewName(value);
  };

  const setSlice = (figure, place) => {
    const slices = [...figure.querySelectorAll(".slice")];
    slices.forEach((slice, number) => { slice.hidden = number !== place; });
    const text = slices[place].dataset.text;
    const slider = figure.querySelector(".slice-slider");
    if (!slider) return;
    slider.value = place;
    slider.setAttribute("aria-valuetext", text);
    figure.querySelector(".slice-text").textContent = text;
  };

  const figures = [...document.querySelectorAll("figure.case")];
  for (const figure of figures) {
    // Paper has no sliders: there the plain image stands beside the overlay.
    for (const slice of figure.querySelectorAll(".slice")) {
      const plain = slice.querySelector(".view").cloneNode(true);
      plain.classList.add("plain");
      plain.setAttribute("aria-hidden", "true");
      plain.querySelectorAll(".layer, svg, .panel-name").forEach((part) => part.remove());
      slice.prepend(plain);
    }
    const view = figure.querySelector(".view-slider");
    view.addEventListener("input", () => setView(figure, Number(view.value)));
    setView(figure, 50);
    const slice = figure.querySelector(".slice-slider");
    if (slice) {
      slice.addEventListener("input", () => setSlice(figure, Number(slice.value)));
      setSlice(figure, Number(slice.getAttribute("value")));
    }
  }

  const all = document.getElementById("all-views");
  if (all) {
    const text = document.getElementById("all-views-text");
    all.value = 50;
    all.addEventListener("input", () => {
      const value = Number(all.value);
      text.textContent = viewName(value);
      all.setAttribute("aria-valuetext", viewName(value));
      figures.forEach((figure) => setView(figure, value));
    });
  }
  const outlines = document.getElementById("outlines");
  if (outlines) {
    outlines.checked = true;
    outlines.addEventListener("change", () =>
      root.classList.toggle("no-outlines", !outlines.checked));
  }

  // What is folded away on the screen must not be missing on paper.
  const folded = () => [...document.querySelectorAll("details:not([open])")];
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = folded();
    opened.forEach((each) => { each.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((each) => { each.open = false; }));
})();
