// The film: a slider over the epochs that the page holds. Without this script the page shows the last frame.
"use strict";
(() => {
  const holder = document.getElementById("film-data");
  if (!holder) return;
  const film = JSON.parse(holder.textContent);
  const slider = document.getElementById("film-epoch");
  const button = document.getElementById("film-play");
  const caption = document.getElementById("film-caption");
  const groups = film.ids.map((id) => document.getElementById(id));
  const centres = groups.map((group) => {
    const box = group.querySelector(".box");
    return Number(box.getAttribute("x")) + Number(box.getAttribute("width")) / 2;
  });
  const last = film.frames.length - 1;
  let timer = null;

  function show(index) {
    const frame = film.frames[index];
    const chosen = film.choices.map((options, layer) => options[frame.looks[layer]]);
    const total = chosen.reduce((sum, look) => sum + (look[4] || 0), film.constant);
    chosen.forEach(([style, height, label, tip, cost, width, channels], layer) => {
      const group = groups[layer];
      const sure = frame.sure[layer];
      const box = group.querySelector(".box");
      const share = group.querySelector(".share");
      group.setAttribute("class", sure < 0.65 ? "block unsure" : "block");
      box.setAttribute("class", style);
      group.querySelector("title").textContent = sure < 1 ? tip + " (certainty " + Math.round(100 * sure) + " %)" : tip;
      box.setAttribute("y", film.middle - height / 2);
      box.setAttribute("height", height);
      box.setAttribute("x", centres[layer] - width / 2);
      box.setAttribute("width", width);
      group.closest("svg").querySelector(".channels").textContent = channels;
      box.setAttribute("fill-opacity", film.pale + (1 - film.pale) * sure);
      group.querySelector(".op").textContent = label;
      if (share && total > 0) {
        const part = (cost || 0) / total;
        const length = (film.longest * part) / film.top;
        const text = group.querySelector(".percent");
        share.setAttribute("height", length);
        text.setAttribute("y", film.bars + length + 12);
        text.textContent = part > 0 ? (100 * part).toFixed(part < 0.0995 ? 1 : 0) : "";
      }
    });
    const words = frame.facts ? frame.caption + " \u00b7 " + frame.facts : frame.caption;
    caption.textContent = words;
    slider.setAttribute("aria-valuetext", words);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  }

  function play() {
    if (Number(slider.value) >= last) slider.value = 0;
    show(Number(slider.value));
    button.textContent = "Pause";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      show(Number(slider.value));
      if (Number(slider.value) >= last) stop();
    }, Math.max(90, Math.min(600, 15000 / film.frames.length)));
  }

  button.addEventListener("click", () => (timer === null ? play() : stop()));
  slider.addEventListener("input", () => {
    if (timer !== null) stop();
    show(Number(slider.value));
  });
  slider.max = last;
  // report.html#frame=3 opens the film at a moment
  const asked = /^#frame=(\d+)$/.exec(location.hash);
  slider.value = asked ? Math.min(last, Number(asked[1])) : last;
  show(Number(slider.value));
  document.getElementById("film-controls").hidden = false;
})();
