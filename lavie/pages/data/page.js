"use strict";
// The page of `lavie data view`: samples that are found, rows of a run's batches, and marks of what is left out.

let page = null; // what the server told at the start
let query = null; // what was looked for
let shown = 0; // how many of the samples that were found are on the page

// --- marks

async function mark(holder, key, out) {
  const reply = await attempt(() => ask("api/mark", { key, out }));
  if (!reply) return;
  page.excluded = reply.excluded;
  complain(reply.refusal);
  // One sample may be on the page several times.
  for (const other of document.querySelectorAll("[data-key]")) if (other.dataset.key === key) showMark(other, out);
  tell();
}

function showMark(holder, out) {
  holder.classList.toggle("out", out);
  const press = holder.querySelector(".mark");
  press.textContent = out ? "Take in again" : "Leave out";
  press.setAttribute("aria-pressed", String(out));
}

function tell() {
  const first = page.samples < page.total ? `the first ${page.samples.toLocaleString()} of ` : "";
  const list = page.excluded ? `, ${plural(page.excluded, "sample")} left out in ${page.exclude}` : "";
  const use = page.excluded && !page.names_exclude ? `: data.exclude=${page.exclude} leaves them out of a run` : "";
  element("status").textContent = `${first}${plural(page.total, "sample")}${list}${use}`;
}

// Everything about a sample: its caption, its key, and the buttons.
function about(key, caption, facts) {
  return make(
    "div",
    { className: "about" },
    make("p", { textContent: caption }),
    make("p", { className: "pale", textContent: [key, ...facts].join(", ") }),
  );
}

function markButton(key) {
  return button("Leave out", (event) => {
    const holder = event.target.closest("[data-key]");
    mark(holder, key, !holder.classList.contains("out"));
  }, { className: "mark" });
}

// --- samples

function read() {
  const found = { words: element("words").value, kind: element("kind").value, sort: element("sort").value, low: {}, high: {} };
  found.descending = element("descending").checked;
  found.marked = element("marked").checked;
  for (const input of element("ranges").querySelectorAll("input")) if (input.value !== "") found[input.dataset.end][input.name] = Number(input.value);
  return found;
}

async function find() {
  query = read();
  shown = 0;
  element("cards").replaceChildren();
  await more();
}

async function more() {
  const found = await attempt(() => ask("api/find", { ...query, offset: shown }));
  if (!found) return;
  element("found").textContent = found.found ? `${plural(found.found, "sample")} found` : "No sample is like this.";
  element("cards").append(...found.samples.map(sampleCard));
  shown += found.samples.length;
  element("more").hidden = shown >= found.found;
}

function sampleCard(sample) {
  const place = `samples/${page.secret}/${sample.number}`;
  const { frames, side, ...columns } = sample.columns;
  const facts = [sample.kind === "video" ? `${sample.size[0]} frames of ${sample.size[2]} x ${sample.size[1]}` : `${sample.size[2]} x ${sample.size[1]}`];
  if (sample.kind === "image") delete columns.seconds;
  facts.push(...Object.entries(columns).map(([name, value]) => `${name} ${value}`));
  const actions = make("div", { className: "actions" }, markButton(sample.key));
  let picture;
  if (sample.kind === "video") {
    const moving = make("video", { poster: `${place}.png`, preload: "none", loop: true, muted: true, playsInline: true });
    let visit = 0;
    moving.onerror = () => complain(`${sample.key} cannot be shown: it may be too short for the clips of this run.`);
    const play = () => {
      if (!moving.src) moving.src = `${place}-${visit}.mp4`;
      moving.play().catch(() => {});
    };
    picture = make("button", { type: "button", className: "open", ariaLabel: `Play ${sample.key}`, onclick: () => (moving.paused ? play() : moving.pause()) }, moving);
    picture.onmouseenter = play;
    picture.onmouseleave = () => moving.pause();
    if (page.run) {
      const again = () => {
        visit += 1;
        moving.src = `${place}-${visit}.mp4`;
        play();
      };
      actions.append(button("Another cut", again));
    }
  } else {
    picture = make("img", { className: "picture", src: `${place}.png`, loading: "lazy", alt: sample.caption });
  }
  const card = make("li", {}, picture, about(sample.key, sample.caption, facts), actions);
  card.dataset.key = sample.key;
  showMark(card, sample.out);
  return card;
}

function showColumns() {
  for (const [name, [low, high]] of Object.entries(page.columns)) {
    element("sort").append(make("option", { value: name, textContent: name }));
    const end = (which, value) => {
      const input = make("input", { type: "number", step: "any", name, placeholder: Number(value.toPrecision(4)), ariaLabel: `${which === "low" ? "least" : "largest"} ${name}` });
      input.dataset.end = which;
      return input;
    };
    element("ranges").append(make("fieldset", { className: "range" }, make("span", { textContent: name }), end("low", low), end("high", high)));
  }
}

// --- the batch of a step

let asked = 0; // counts the batches that were asked for: rows of an earlier one are not shown any more

async function showStep(step) {
  element("step").value = step;
  const own = ++asked;
  element("rows").replaceChildren();
  for (let place = 0; place < page.run.rows; place += 1) {
    element("told").textContent = `step ${step}: reading row ${place + 1} of ${page.run.rows} …`;
    const row = await attempt(() => ask(`api/row?step=${step}&row=${place}`));
    if (own !== asked) return;
    if (!row) {
      element("told").textContent = `step ${step}`;
      return;
    }
    element("rows").append(rowItem(row));
  }
  element("told").textContent = `step ${step}: ${plural(page.run.rows, "row")}, as training reads them`;
}

function rowItem(row) {
  const item = make("li", {}, make("h2", { textContent: `Position ${row.position}` }));
  for (const spare of row.spares) item.append(make("p", { className: "pale", textContent: `a spare stands in for ${spare}` }));
  const parts = row.parts.map((part) => {
    const holder = make("div", { className: "part" }, shownFile(part.file, part.caption));
    holder.append(about(part.key, part.caption, []), make("div", { className: "actions" }, markButton(part.key)));
    holder.dataset.key = part.key;
    showMark(holder, part.out);
    return holder;
  });
  if (row.low) parts.splice(1, 0, make("div", { className: "part" }, shownFile(row.low, "its low resolution"), make("div", { className: "about pale", textContent: "its low resolution" })));
  item.append(make("div", { className: "parts" }, ...parts));
  return item;
}

function shownFile(file, alt) {
  const src = `rows/${page.secret}/${file}`;
  if (file.endsWith(".png")) return make("img", { className: "picture", src, alt });
  return make("video", { className: "picture", src, loop: true, muted: true, autoplay: true, playsInline: true, controls: true, ariaLabel: alt });
}

function view(name) {
  for (const other of ["samples", "batch"]) {
    element(other).hidden = other !== name;
    element(`to-${other}`).setAttribute("aria-pressed", String(other === name));
  }
  if (name === "batch" && !asked) showStep(page.step || 1);
}

const near = (by) => showStep(Math.min(page.run.steps, Math.max(1, Number(element("step").value) + by)));

// --- what the user does

element("form").onsubmit = (event) => {
  event.preventDefault();
  find();
};
for (const name of ["kind", "sort", "descending", "marked"]) element(name).onchange = find;
element("more").onclick = more;
element("to-samples").onclick = () => view("samples");
element("to-batch").onclick = () => view("batch");
element("step-form").onsubmit = (event) => {
  event.preventDefault();
  showStep(Number(element("step").value));
};
element("before").onclick = () => near(-1);
element("next").onclick = () => near(1);
document.onkeydown = (event) => {
  if (element("batch").hidden || ["INPUT", "VIDEO"].includes(event.target.tagName)) return;
  if (event.key === "ArrowLeft") near(-1);
  if (event.key === "ArrowRight") near(1);
};

attempt(async () => {
  if (!token) throw new Error("Open the address that `lavie data view` printed, with all that stands behind its #.");
  page = await ask("api/page");
  element("views").hidden = !page.run;
  if (page.run) element("step").max = page.run.steps;
  tell();
  showColumns();
  if (page.step) view("batch");
  await find();
});
