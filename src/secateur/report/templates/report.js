(function () {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);

  // "$pruned" under a key that ends in "color" stands for the CSS variable --pruned.
  function coloured(value, key, style) {
    if (Array.isArray(value)) return value.map((entry) => coloured(entry, key, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, k, style)]));
    }
    if (typeof value === "string" && value[0] === "$" && /color$/.test(key)) {
      return style.getPropertyValue("--" + value.slice(1)).trim();
    }
    return value;
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = coloured(figures[place.dataset.figure], "", style);
      Plotly.react(place, figure.data, figure.layout, { displayModeBar: false, responsive: true });
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
