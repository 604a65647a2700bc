"use strict";
// What a report does beyond being read: it plays all clips together, and tells the values of curves under the pointer.

// --- the clips: one button, one slider

const clips = [...document.querySelectorAll("video")];
const player = document.getElementById("player");
const whole = 1000; // the slider's end

function complain(clip) {
  const words = document.createElement("span");
  words.className = "none";
  words.textContent = "cannot be played here: the clip is H.264, or its file is gone";
  clip.replaceWith(words);
}

function setUpPlayer() {
  const button = document.getElementById("play");
  const slider = document.getElementById("place");
  const playable = () => clips.filter((clip) => clip.isConnected && clip.duration > 0);
  const place = () => slider.value / whole;
  let playing = false;

  function move() {
    // Just before the end: at the end itself, a clip that repeats shows its beginning.
    for (const clip of playable()) clip.currentTime = Math.min(place() * clip.duration, clip.duration - 0.001);
  }
  function show() {
    const [first] = playable();
    if (playing && first) slider.value = (first.currentTime / first.duration) * whole;
    if (playing) requestAnimationFrame(show);
  }
  function toggle() {
    playing = !playing;
    button.textContent = playing ? "Pause all" : "Play all";
    button.setAttribute("aria-pressed", playing);
    if (playing) move();
    for (const clip of playable()) {
      if (playing) clip.play().catch(() => complain(clip));
      else clip.pause();
    }
    if (playing) show();
    else move();
  }

  button.addEventListener("click", toggle);
  slider.addEventListener("input", () => {
    if (playing) toggle();
    else move();
  });
  player.hidden = false;
}

for (const clip of clips) {
  clip.controls = false;
  if (clip.error) complain(clip);
  else clip.addEventListener("error", () => complain(clip));
}
if (player && clips.length) setUpPlayer();

// --- the curves: the step that is nearest to the pointer, or that the arrow keys have reached

const charts = JSON.parse(document.getElementById("numbers").textContent);

function nearest(steps, step) {
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
}

function setUpChart(svg) {
  const { span, unit, curves } = charts[svg.dataset.chart];
  const [left, right] = [Number(svg.dataset.left), Number(svg.dataset.right)];
  const cursor = svg.querySelector(".cursor");
  const readout = svg.closest("figure").querySelector(".readout");
  let step = span[1];

  function tell(wanted) {
    step = Math.min(Math.max(Math.round(wanted), span[0]), span[1]);
    const share = span[1] > span[0] ? (step - span[0]) / (span[1] - span[0]) : 0;
    const x = (left + share * (right - left)) * svg.viewBox.baseVal.width;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    const told = curves.map(({ label, steps, values }) => {
      const at = nearest(steps, step);
      return `${label} ${values[at]}${unit}${steps[at] === step ? "" : ` (step ${steps[at]})`}`;
    });
    readout.textContent = `step ${step}: ${told.join(", ")}`;
  }
  function clear() {
    cursor.setAttribute("visibility", "hidden");
    readout.textContent = "";
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width - left) / (right - left);
    tell(span[0] + share * (span[1] - span[0]));
  });
  svg.addEventListener("pointerleave", clear);
  svg.addEventListener("blur", clear);
  svg.addEventListener("keydown", (event) => {
    const ways = { ArrowLeft: -1, ArrowRight: 1 };
    if (!(event.key in ways)) return;
    tell(step + ways[event.key] * Math.max(1, Math.round((span[1] - span[0]) / 100)));
    event.preventDefault();
  });
}

for (const svg of document.querySelectorAll("svg[data-chart]")) setUpChart(svg);
