"use strict";
// The page of `lavie play`: a form, the queue as the server tells it, and the gallery on its disk.

const AGAIN_MS = 2000; // until the events are asked for again when the server is away

let page = null; // what the server offers
let image = null; // the name of the uploaded image to start from
let clips = []; // the gallery as far as it is shown, newest first
let marked = []; // the names of the clips that are chosen for comparing
let known = 0; // how many clips the gallery has

// --- the form

const source = () => page.sources.find((other) => other.name === element("model").value);

function showSource() {
  const { stages, takes_frames: takes } = source();
  const names = Object.keys(stages);
  const until = element("until");
  until.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name })));
  until.value = names[names.length - 1];
  element("until-row").hidden = names.length === 1;
  element("stages").replaceChildren(
    ...names.map((name) => {
      const number = (key, properties) =>
        make("input", { type: "number", id: `${name}-${key}`, value: stages[name][key], required: true, ariaLabel: `${name} ${key}`, ...properties });
      const row = make(
        "tr",
        { id: `row-${name}`, title: `${stages[name].size[0]} frames of ${stages[name].size[2]} x ${stages[name].size[1]}` },
        make("th", { scope: "row", textContent: name }),
        make("td", {}, number("num_inference_steps", { min: 2, max: 500, step: 1 })),
        make("td", {}, number("guidance_scale", { min: 0, max: 100, step: "any" })),
      );
      return row;
    }),
  );
  element("negative").placeholder = stages[names[0]].negative_prompt || "as the run says";
  element("strength").placeholder = takes ? "begins with the image as it is" : "0.4";
  element("strength").required = !takes;
  showUntil();
}

function running() {
  const names = Object.keys(source().stages);
  return names.slice(0, names.indexOf(element("until").value) + 1);
}

function showUntil() {
  for (const name of Object.keys(source().stages)) {
    const runs = running().includes(name);
    element(`row-${name}`).classList.toggle("idle", !runs);
    for (const input of element(`row-${name}`).querySelectorAll("input")) input.disabled = !runs;
  }
}

function showImage(name) {
  image = name;
  element("still").hidden = element("no-image").hidden = element("strength-row").hidden = !name;
  element("strength").disabled = !name;
  if (name) element("still").src = `images/${name}.png`;
  else element("still").removeAttribute("src");
}

function order() {
  const asked = {};
  for (const name of running()) {
    asked[name] = {};
    for (const key of ["num_inference_steps", "guidance_scale"]) asked[name][key] = Number(element(`${name}-${key}`).value);
  }
  const loras = {};
  for (const input of element("loras").querySelectorAll("input")) if (Number(input.value)) loras[input.name] = Number(input.value);
  const strength = element("strength").value;
  return {
    model: element("model").value,
    prompt: element("prompt").value,
    negative_prompt: element("negative").value || null,
    seed: Number(element("seed").value),
    clips: Number(element("clips").value),
    stop_after: element("until").value,
    stages: asked,
    loras,
    image,
    strength: image && strength !== "" ? Number(strength) : null,
  };
}

function useAgain(clip) {
  const asked = clip.order;
  if (!page.sources.some((other) => other.name === asked.model)) {
    return complain(`This clip was drawn with ${asked.model}, which this page was not given.`);
  }
  element("model").value = asked.model;
  showSource();
  const offered = Object.keys(source().stages);
  const absent = Object.keys(clip.settings).filter((name) => !offered.includes(name));
  const missing = Object.keys(asked.loras).filter((name) => !(name in page.loras));
  const lacks = absent.length ? [`${asked.model} has no stage ${absent.join(", ")} any more.`] : [];
  if (missing.length) lacks.push(`This page was not given the LoRA ${missing.join(", ")}.`);
  complain(lacks.join(" "));
  if (offered.includes(asked.stop_after)) element("until").value = asked.stop_after;
  showUntil();
  element("prompt").value = asked.prompt;
  element("negative").value = asked.negative_prompt || "";
  element("seed").value = asked.seed;
  element("clips").value = asked.clips;
  for (const [name, settings] of Object.entries(clip.settings)) {
    if (!offered.includes(name)) continue;
    for (const key of ["num_inference_steps", "guidance_scale"]) element(`${name}-${key}`).value = settings[key];
  }
  for (const input of element("loras").querySelectorAll("input")) input.value = asked.loras[input.name] || 0;
  showImage(asked.image);
  element("strength").value = asked.strength === null ? "" : asked.strength;
  element("look").close();
  element("prompt").focus();
  element("form").scrollIntoView({ block: "nearest" });
}

async function upload(file) {
  if (!file) return;
  if (file.size > page.most.bytes) return complain(`${file.name} has ${(file.size / 2 ** 20).toFixed(1)} MB: at most ${page.most.bytes / 2 ** 20} MB are taken.`);
  await attempt(async () => showImage((await ask("api/images", file)).id));
  element("file").value = "";
}

function newSeed() {
  element("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
}

// --- the queue

const rows = new Map(); // a job's row, by its name

function showJobs({ jobs, clips: count }) {
  const open = jobs.filter((job) => !["done", "cancelled", "failed"].includes(job.state));
  element("status").textContent = open.length ? `${plural(open.length, "job")} of at most ${page.most.jobs} in the queue` : "ready";
  document.title = open.length ? `(${open.length}) LaVie` : "LaVie";
  element("idle").hidden = jobs.length > 0;
  for (const [name, row] of rows) {
    if (!jobs.some((job) => job.id === name)) {
      row.remove();
      rows.delete(name);
    }
  }
  for (const job of jobs) {
    if (!rows.has(job.id)) {
      rows.set(job.id, jobRow(job));
      element("queue").prepend(rows.get(job.id));
    }
    showJob(rows.get(job.id), job);
  }
  if (count !== known) showGallery();
}

function jobRow(job) {
  const row = make("li", {}, make("p", { className: "title", textContent: job.order.prompt }), make("p", { className: "pale state" }), make("p", { className: "pale unread" }));
  row.append(make("div", { className: "stages" }), make("img", { alt: "What has been drawn so far", hidden: true }));
  row.append(button("Cancel", () => attempt(() => ask(`api/jobs/${job.id}/cancel`, {})), { ariaLabel: `Cancel ${job.order.prompt}` }));
  return row;
}

function showJob(row, job) {
  const ended = ["done", "cancelled", "failed"].includes(job.state);
  row.classList.toggle("ended", ended);
  row.dataset.state = job.state;
  row.querySelector("button").hidden = ended || job.state === "cancelling";
  const state = row.querySelector(".state");
  const which = job.order.clips > 1 && job.state === "drawing" ? `clip ${job.clip + 1} of ${job.order.clips}, ` : "";
  const result = job.state === "done" ? `, ${plural(job.made.length, "clip")}` : "";
  state.textContent = job.error || `${which}${job.state}${result}${job.seconds ? `, ${job.seconds} s` : ""}`;
  state.classList.toggle("failed", job.state === "failed");
  row.querySelector(".unread").textContent = job.unread.map((cut) => `The network never sees ${cut}.`).join(" ");
  const bars = row.querySelector(".stages");
  bars.hidden = ended;
  for (const [stage, [done, all]] of Object.entries(job.stages)) {
    let bar = bars.querySelector(`[data-stage="${stage}"]`);
    if (!bar) {
      bar = make("label", {}, make("span", {}), make("progress", {}));
      bar.dataset.stage = stage;
      bars.append(bar);
    }
    bar.firstChild.textContent = `${stage} ${done}/${all}`;
    bar.lastChild.max = all;
    bar.lastChild.value = done;
  }
  const picture = row.querySelector("img");
  picture.hidden = !job.shown;
  if (job.shown && picture.dataset.shown !== String(job.shown)) {
    picture.dataset.shown = job.shown;
    picture.src = `jobs/${job.id}.png?shown=${job.shown}`;
  }
}

function follow() {
  const events = new EventSource(`api/events?token=${encodeURIComponent(token)}`);
  events.onmessage = (event) => showJobs(JSON.parse(event.data));
  events.onerror = () => {
    element("status").textContent = "the server does not answer";
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, AGAIN_MS);
  };
}

// --- the gallery

async function showGallery() {
  const found = await attempt(() => ask("api/gallery"));
  if (!found) return;
  // What was shown before stays, older pages among it; all of it goes if more were drawn than are sent at once.
  const newest = new Set(found.clips.map((clip) => clip.id));
  const older = clips.filter((clip) => !newest.has(clip.id));
  clips = older.length < clips.length ? [...found.clips, ...older] : found.clips;
  known = found.all;
  element("faults").replaceChildren(...found.faults.map((fault) => make("li", { textContent: fault })));
  element("folder").textContent = known ? `${plural(known, "clip")} in ${page.gallery}` : `What is drawn is kept in ${page.gallery}.`;
  // Cards that are there already stay, so that nothing that plays begins anew.
  const there = new Map([...element("gallery").children].map((card) => [card.dataset.id, card]));
  element("gallery").replaceChildren(...clips.map((clip) => there.get(clip.id) || clipCard(clip)));
  element("more").hidden = clips.length >= known;
  marked = marked.filter((name) => clips.some((clip) => clip.id === name));
  showMarks();
}

async function showOlder() {
  const found = await attempt(() => ask(`api/gallery?offset=${clips.length}`));
  if (!found) return;
  // A clip that was drawn since has moved the others on, so that some come twice.
  const older = found.clips.filter((clip) => !clips.some((other) => other.id === clip.id));
  clips.push(...older);
  element("gallery").append(...older.map(clipCard));
  element("more").hidden = clips.length >= found.all;
}

const video = (clip, properties) =>
  make("video", { src: `clips/${clip.id}.mp4`, poster: `clips/${clip.id}.jpg`, loop: true, muted: true, playsInline: true, ...properties });

function clipCard(clip) {
  const moving = video(clip, { preload: "none" });
  const open = make("button", { type: "button", className: "open", onclick: () => look([clip]), ariaLabel: `Look at ${clip.order.prompt}` }, moving);
  for (const begin of ["mouseenter", "focus"]) open.addEventListener(begin, () => moving.play().catch(() => {}));
  for (const end of ["mouseleave", "blur"]) open.addEventListener(end, () => moving.pause());
  const card = make(
    "li",
    {},
    open,
    make(
      "div",
      { className: "about" },
      make("p", { textContent: clip.order.prompt }),
      make("p", { className: "pale", textContent: `seed ${clip.order.seed}, ${clip.size[0]} frames, ${clip.size[2]} x ${clip.size[1]}` }),
    ),
    make(
      "div",
      { className: "actions" },
      button("Use again", () => useAgain(clip)),
      button("Choose", () => mark(clip.id), { className: "mark", ariaPressed: "false" }),
      make("a", { href: `clips/${clip.id}.mp4`, download: `${clip.id}.mp4`, textContent: "Save" }),
    ),
  );
  card.dataset.id = clip.id;
  return card;
}

function mark(name) {
  marked = marked.includes(name) ? marked.filter((other) => other !== name) : [...marked, name].slice(-2);
  showMarks();
}

function showMarks() {
  for (const card of element("gallery").children) {
    const on = marked.includes(card.dataset.id);
    card.classList.toggle("marked", on);
    card.querySelector(".mark").ariaPressed = String(on);
    card.querySelector(".mark").textContent = on ? "Chosen" : "Choose";
  }
  element("chosen").hidden = !marked.length;
  element("count").textContent = marked.length === 2 ? "Two clips are chosen." : "One clip is chosen; choose another one.";
  element("compare").disabled = marked.length !== 2;
}

// --- looking at one clip, or at two beside each other

function facts(clip) {
  const found = { model: clip.order.model, seed: clip.order.seed, drawn: `${clip.made.slice(0, 16).replace("T", " ")} UTC in ${clip.seconds} s` };
  found.clip = `${clip.size[0]} frames of ${clip.size[2]} x ${clip.size[1]} at ${clip.fps} fps`;
  for (const [stage, settings] of Object.entries(clip.settings)) {
    const { num_inference_steps: steps, guidance_scale: guidance, scheduler, negative_prompt: negative } = settings;
    found[stage] = `${steps} steps of ${scheduler}, guidance ${guidance}${negative ? `, not ${negative}` : ""}`;
  }
  for (const lora of clip.loras) found[`LoRA ${lora.lora}`] = lora.scale;
  if (clip.order.image) found.image = clip.order.strength === null ? "begins with it" : `redrawn by ${clip.order.strength}`;
  return found;
}

function look(chosen) {
  const told = chosen.map(facts);
  const differs = (key) => told.length === 2 && told[0][key] !== told[1][key];
  element("look-title").textContent = chosen.length === 2 ? "Two clips" : chosen[0].order.prompt;
  element("shown").replaceChildren(
    ...chosen.map((clip, i) =>
      make(
        "div",
        {},
        video(clip, { autoplay: true, controls: chosen.length === 1, ariaLabel: clip.order.prompt }),
        ...(chosen.length === 2 ? [make("h3", { textContent: clip.order.prompt, className: clip.order.prompt === chosen[1 - i].order.prompt ? "" : "differs" })] : []),
        make("dl", {}, ...Object.entries(told[i]).flatMap(([key, value]) => [make("dt", { textContent: key }), make("dd", { textContent: value, className: differs(key) ? "differs" : "" })])),
        make("div", { className: "actions" }, button("Use again", () => useAgain(clip))),
      ),
    ),
  );
  element("look").showModal();
  element("replay").focus();
}

function replay() {
  for (const moving of element("shown").querySelectorAll("video")) {
    moving.currentTime = 0;
    moving.play();
  }
}

// --- what the user does

element("model").onchange = showSource;
element("until").onchange = showUntil;
element("dice").onclick = newSeed;
element("more").onclick = showOlder;
element("none").onclick = () => marked.slice().forEach(mark);
element("compare").onclick = () => look(marked.map((name) => clips.find((clip) => clip.id === name)));
element("close").onclick = () => element("look").close();
element("replay").onclick = replay;
element("look").onclose = () => element("shown").replaceChildren();
element("look").onkeydown = (event) => {
  if (event.key === "r") replay();
};
element("file").onchange = () => upload(element("file").files[0]);
element("no-image").onclick = () => showImage(null);
element("form").onsubmit = (event) => {
  event.preventDefault();
  attempt(() => ask("api/jobs", order()));
};
element("form").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element("form").requestSubmit();
};
const box = element("image-box");
box.ondragover = (event) => {
  event.preventDefault();
  box.classList.add("over");
};
box.ondragleave = () => box.classList.remove("over");
box.ondrop = (event) => {
  event.preventDefault();
  box.classList.remove("over");
  upload(event.dataTransfer.files[0]);
};

attempt(async () => {
  if (!token) throw new Error("Open the address that `lavie play` printed, with all that stands behind its #.");
  page = await ask("api/page");
  element("model").append(...page.sources.map(({ name, folder }) => make("option", { value: name, textContent: name, title: folder })));
  element("model-row").hidden = page.sources.length === 1;
  element("clips").max = page.most.clips;
  element("seed").max = page.most.seed;
  const loras = Object.entries(page.loras);
  element("loras-box").hidden = !loras.length;
  element("loras").append(...loras.map(([name, scale]) => make("label", {}, make("span", { textContent: name }), make("input", { type: "number", name, value: scale, step: "any" }))));
  newSeed();
  showSource();
  showImage(null);
  await showGallery();
  follow();
});
