"use strict";
// A rater's way through a study: pairs, then ratings. All that is needed lies in this page and in clips/ beside it.

const study = JSON.parse(document.getElementById("study").textContent);
const element = (id) => document.getElementById(id);
const STORE = `human study ${study.study}`;
const AGAIN_MS = 10000; // how long until answers that the server did not take are sent again
const PAUSE_MS = 500; // between two rounds of the clips

// --- what is kept: the rater, the trial that is shown, and the last answers to each trial

let state = null;
let served = false; // whether a server takes the answers as they come

function load() {
  try {
    state = JSON.parse(localStorage.getItem(STORE));
  } catch {
    state = null;
  }
}

function keep() {
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch {
    complain("This browser keeps nothing between visits: finish without closing or reloading the page.");
  }
}

const trials = () => study.places[state.place];
const answered = () => trials().filter((trial) => state.answers[trial.id]).length;

// --- answers as rows, whose columns stand in COLUMNS of answers.py

function rowsOf(id) {
  return state.answers[id].map(([metric, answer, seconds, at]) => [study.study, state.rater, id, metric, answer, seconds, at]);
}

function exported() {
  const rows = trials().filter((trial) => state.answers[trial.id]).flatMap((trial) => rowsOf(trial.id));
  return [study.columns, ...rows].map((row) => row.join(",") + "\n").join("");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([exported()], { type: "text/csv" }));
  link.download = `answers-${study.study}-${state.rater}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), AGAIN_MS);
  element("again").textContent = "Downloaded. Send the file to whoever asked you.";
  element("other").disabled = false;
}

function startOver() {
  localStorage.removeItem(STORE);
  location.reload();
}

let sending = false;

async function send() {
  if (!served || sending || !state.unsent.length) return;
  sending = true;
  const rows = state.unsent.slice();
  try {
    const reply = await fetch("answers", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(rows),
    });
    if (!reply.ok) throw new Error(await reply.text());
    state.unsent.splice(0, rows.length);
    keep();
    complain("");
    setTimeout(send);
  } catch (error) {
    complain(`The server did not take the last answers (${error.message}). They are kept here, and sent again soon.`);
  }
  sending = false;
  showSaved();
  if (!element("done").hidden) tellEnd();
}

function record(id, answers) {
  state.answers[id] = answers;
  state.unsent.push(...rowsOf(id));
  state.at += 1;
  keep();
  send();
}

// --- what is shown

function complain(text) {
  element("trouble").textContent = text;
  element("trouble").hidden = !text;
}

function showSaved() {
  element("saved").textContent = !served ? "kept in this browser" : state.unsent.length ? "sending …" : "saved";
}

function showOnly(name) {
  for (const main of document.querySelectorAll("body > main")) main.hidden = main.id !== name;
  const working = name === "pair" || name === "rating";
  document.querySelector("header").hidden = document.querySelector("footer").hidden = !working;
}

let clips = []; // the players of the trial that is shown
let ready = 0; // when the trial could first be answered; 0 until then
let focused = null; // takes the focus once the trial can be answered

function show() {
  for (const player of clips) player.stop();
  clips = [];
  ready = 0;
  complain("");
  if (state.at >= trials().length) return showDone();
  const trial = trials()[state.at];
  const name = trial.right ? "pair" : "rating";
  showOnly(name);
  const same = trials().filter((other) => !other.right === !trial.right);
  element("count").textContent = `${trial.right ? "Pair" : "Video"} ${same.indexOf(trial) + 1} of ${same.length}`;
  element("bar").style.width = `${(100 * state.at) / trials().length}%`;
  showSaved();
  const main = element(name);
  main.querySelector(".prompt").textContent = study.prompts[trial.prompt];
  if (trial.right) showPair(main, trial);
  else showRating(trial);
  const names = trial.right ? [trial.left, trial.right] : [trial.left];
  clips = [...main.querySelectorAll("figure")].map((figure, i) => player(figure, names[i]));
  hint();
  round(clips);
}

function showPair(main, trial) {
  const before = state.answers[trial.id];
  for (const button of main.querySelectorAll("button")) {
    button.disabled = true;
    button.classList.toggle("chosen", Boolean(before) && before[0][1] === button.dataset.answer);
  }
  if (document.activeElement) document.activeElement.blur();
}

function showRating(trial) {
  const before = Object.fromEntries((state.answers[trial.id] || []).map(([metric, answer]) => [metric, answer]));
  for (const input of element("metrics").querySelectorAll("input")) {
    input.disabled = true;
    input.checked = before[input.name] === input.value;
  }
  element("next").disabled = true;
}

function showDone() {
  showOnly("done");
  element("again").textContent = "";
  element("other").disabled = true;
  tellEnd();
  element("save").focus();
}

function tellEnd() {
  const sent = served && !state.unsent.length;
  if (sent) element("other").disabled = false;
  element("end").textContent = sent
    ? "Your answers have been sent. You may close this page."
    : served
      ? "Your last answers are being sent …"
      : "Your answers are in this browser only: download them, and send the file to whoever asked you.";
}

function hint() {
  const waits = clips.some((clip) => !clip.played);
  const many = clips.length > 1;
  element("hint").textContent = waits
    ? `You can answer when ${many ? "both videos have" : "the video has"} been played to the end.`
    : many
      ? "Your answer?"
      : "1 bad, 2 normal, 3 good, 0 where a question does not apply";
}

// --- playing: every clip to its end, both of a pair at the same time, around and around

function player(figure, name) {
  const video = figure.querySelector("video");
  const bar = figure.querySelector(".played div");
  const own = { video, played: false, ended: false, whole: false };
  figure.classList.remove("full");
  bar.style.width = "0";
  const on = {
    timeupdate: () => {
      if (video.duration) bar.style.width = `${(100 * video.currentTime) / video.duration}%`;
    },
    // Who skips a part has not seen the clip.
    seeking: () => {
      if (video.currentTime > 0) own.whole = false;
    },
    ratechange: () => {
      if (video.playbackRate !== 1) video.playbackRate = 1;
    },
    ended: () => {
      own.ended = true;
      if (own.whole) {
        own.played = true;
        figure.classList.add("full");
      }
      finish();
    },
    error: () =>
      complain("This browser cannot play a video (H.264 in an mp4). Open the page in Chrome, Edge, Firefox or Safari."),
  };
  for (const [event, act] of Object.entries(on)) video.addEventListener(event, act);
  own.stop = () => {
    for (const [event, act] of Object.entries(on)) video.removeEventListener(event, act);
    video.pause();
  };
  video.src = `clips/${name}.mp4`;
  return own;
}

async function round(players) {
  await Promise.all(players.map(({ video }) => loaded(video)));
  if (players !== clips) return;
  for (const own of players) {
    own.ended = false;
    own.whole = true;
    own.video.currentTime = 0;
  }
  try {
    await Promise.all(players.map(({ video }) => video.play()));
  } catch (error) {
    if (players === clips && error.name === "NotAllowedError") complain("Press R to play.");
  }
}

function loaded(video) {
  if (video.readyState >= 3) return Promise.resolve();
  return new Promise((resolve) => video.addEventListener("canplay", resolve, { once: true }));
}

function finish() {
  if (clips.some((clip) => !clip.ended)) return;
  const players = clips;
  if (!ready && clips.every((clip) => clip.played)) allow();
  setTimeout(() => {
    if (players === clips && clips.every((clip) => clip.ended)) round(clips);
  }, PAUSE_MS);
}

function allow() {
  ready = performance.now();
  const name = trials()[state.at].right ? "pair" : "rating";
  for (const control of element(name).querySelectorAll("button, input")) control.disabled = false;
  if (name === "rating") {
    element("next").disabled = !complete();
    const groups = [...element("metrics").children];
    enter(groups.find((group) => !group.querySelector(":checked")) || groups[0]);
  }
  hint();
}

const seconds = () => ((performance.now() - ready) / 1000).toFixed(2);
const now = () => new Date().toISOString();

// --- pairs

function vote(answer) {
  if (!ready) return;
  const trial = trials()[state.at];
  record(trial.id, [[study.overall, answer, seconds(), now()]]);
  show();
}

// --- ratings

function build() {
  for (const [metric, title, question, optional] of study.metrics) {
    const group = document.createElement("fieldset");
    const legend = group.appendChild(document.createElement("legend"));
    legend.textContent = title;
    group.appendChild(document.createElement("p")).textContent = question;
    const labels = group.appendChild(document.createElement("div"));
    labels.className = "labels";
    const choices = study.labels.map(([value, text], i) => [value, text, String(i + 1)]);
    if (optional) choices.push([study.none[0], study.none[1], "0"]);
    for (const [value, text, key] of choices) {
      const label = labels.appendChild(document.createElement("label"));
      const input = label.appendChild(document.createElement("input"));
      Object.assign(input, { type: "radio", name: metric, value });
      input.dataset.key = key;
      label.appendChild(document.createElement("kbd")).textContent = key;
      label.append(` ${text}`);
    }
    element("metrics").append(group);
  }
  element("metrics").addEventListener("change", () => (element("next").disabled = !complete()));
}

const complete = () => ready > 0 && study.metrics.every(([metric]) => element("form").querySelector(`[name=${metric}]:checked`));

function enter(group) {
  (group.querySelector(":checked") || group.querySelector("input")).focus();
}

function mark(key) {
  const group = document.activeElement.closest("fieldset") || element("metrics").firstElementChild;
  const input = group.querySelector(`[data-key="${key}"]`);
  if (!ready || !input) return;
  input.checked = true;
  element("next").disabled = !complete();
  if (group.nextElementSibling) enter(group.nextElementSibling);
  else input.focus();
}

function rate() {
  if (!complete()) {
    const open = [...element("metrics").children].find((group) => !group.querySelector(":checked"));
    if (ready && open) enter(open);
    return;
  }
  const [took, at] = [seconds(), now()];
  const chosen = study.metrics.map(([metric]) => element("form").querySelector(`[name=${metric}]:checked`));
  record(trials()[state.at].id, chosen.map((input) => [input.name, input.value, took, at]));
  show();
}

function back() {
  if (!state.at) return;
  state.at -= 1;
  keep();
  show();
}

// --- keys and buttons

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !state) return;
  const shown = document.querySelector("body > main:not([hidden])").id;
  const votes = { ArrowLeft: "left", ArrowDown: "tie", ArrowRight: "right", 1: "left", 2: "tie", 3: "right" };
  let taken = true;
  if (event.key === "Backspace") back();
  else if (event.key === "r" || event.key === "R") round(clips);
  else if (shown === "pair" && votes[event.key]) vote(votes[event.key]);
  else if (shown === "rating" && /^[0-9]$/.test(event.key)) mark(event.key);
  else if (shown === "rating" && event.key === "Enter") rate();
  else taken = false;
  if (taken) event.preventDefault();
});
for (const button of document.querySelectorAll(".votes button")) {
  button.addEventListener("click", () => vote(button.dataset.answer));
}
element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  rate();
});
element("save").addEventListener("click", download);
element("other").addEventListener("click", startOver);
element("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  begin(element("place").value.trim());
});

// --- the start

function begin(text) {
  const given = Number(text);
  if (text && !(Number.isInteger(given) && given >= 1 && given <= study.places.length)) {
    return complain(`Your number is ${text}: wanted one from 1 to ${study.places.length}.`);
  }
  const place = text ? given - 1 : Math.floor(Math.random() * study.places.length);
  const rater = [...crypto.getRandomValues(new Uint8Array(6))].map((b) => b.toString(16).padStart(2, "0")).join("");
  state = { rater, place, at: 0, answers: {}, unsent: [] };
  keep();
  show();
}

async function open() {
  build();
  load();
  if (location.protocol.startsWith("http")) {
    // A page on a plain web server has nobody who takes answers, as one that is opened as a file.
    try {
      const reply = await fetch(state ? "study" : "place");
      const known = reply.ok ? await reply.json() : {};
      served = known.study === study.study;
      if (served && !state) element("place").value = known.place + 1;
    } catch {
      served = false;
    }
    setInterval(send, AGAIN_MS);
  }
  if (state) {
    show();
    return send();
  }
  const first = study.places[0];
  element("pairs").textContent = first.filter((trial) => trial.right).length;
  element("ratings").textContent = first.filter((trial) => !trial.right).length;
  if (/^#\d+$/.test(location.hash)) element("place").value = location.hash.slice(1);
  showOnly("start");
  document.querySelector("#begin button").focus();
}

open();
