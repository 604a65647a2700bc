"use strict";
// What all pages of this machine share: the token, asking the server, and building elements.

const element = (id) => document.getElementById(id);
const TOKEN = "lavie token";

// The token stands behind the # of the address that was printed; it goes from there, so that no screenshot has it.
if (location.hash.length > 1) {
  sessionStorage.setItem(TOKEN, location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem(TOKEN) || "";

// --- asking the server

async function ask(path, body) {
  const options = { headers: { "X-Lavie-Token": token } };
  if (body !== undefined) {
    options.method = "POST";
    const file = body instanceof Blob;
    options.headers["Content-Type"] = file ? "application/octet-stream" : "application/json";
    options.body = file ? body : JSON.stringify(body);
  }
  const reply = await fetch(path, options).catch(() => {
    throw new Error("The server does not answer: is the command that printed this address still running?");
  });
  if (!reply.ok) throw new Error(await reply.text());
  return reply.json();
}

function complain(text) {
  element("trouble").textContent = text;
  element("trouble").hidden = !text;
}

// Runs what a press of a button asks for, and says what went wrong.
async function attempt(work) {
  try {
    complain("");
    return await work();
  } catch (error) {
    complain(error.message);
  }
}

// --- building

function make(tag, properties, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

const button = (text, click, properties) => make("button", { type: "button", textContent: text, onclick: click, ...properties });
const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
