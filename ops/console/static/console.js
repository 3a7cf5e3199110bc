// The little that htmx does not do: the token, the dialogs, the keys, and what is said when nobody answers.
"use strict";
(() => {
  const KEY = "understudy-token";
  const byId = (id) => document.getElementById(id);
  const token = () => sessionStorage.getItem(KEY);
  const openDialog = () => document.querySelector("dialog[open]");
  let heard = new Date();

  const read = () =>
    htmx.ajax("GET", location.pathname + location.search, { target: "#page", select: "#page", swap: "outerHTML" });

  function keep(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
    byId("token-value").value = "";
    byId("token").close();
    read();
  }

  document.addEventListener("htmx:configRequest", (event) => {
    if (token()) event.detail.headers["Authorization"] = `Bearer ${token()}`;
  });

  // What is read again by itself waits while nobody looks, while something is open, and while text is being marked.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const timed = event.detail.elt.id === "live";
    const marking = String(getSelection()).length > 0;
    if (timed && (document.hidden || openDialog() || marking)) event.preventDefault();
  });

  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.xhr.status === 0) return;
    heard = new Date();
    byId("away").hidden = true;
  });

  document.addEventListener("htmx:sendError", () => {
    byId("away").querySelector("time").textContent = heard.toLocaleTimeString();
    byId("away").hidden = false;
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id === "move-body" && !byId("move").open) byId("move").showModal();
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.open) byId(button.dataset.open).showModal();
    if ("close" in button.dataset) button.closest("dialog").close();
    if ("forget" in button.dataset) keep("");
    if ("reread" in button.dataset) { button.closest("dialog").close(); read(); }
  });

  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-token]")) return;
    event.preventDefault();
    keep(byId("token-value").value.trim());
  });

  function follow(link) {
    if (link) link.click();
    return Boolean(link);
  }

  const KEYS = {
    l: () => follow(byId("home")),
    r: () => read(),
    t: () => byId("token").showModal(),
    "?": () => byId("help").showModal(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || openDialog()) return;
    if (event.target.closest("input,textarea,select")) return;
    const act = KEYS[event.key];
    if (act) act();
    else if (/^[1-9]$/.test(event.key)) follow(byId(`to-${event.key}`));
    else if (/^[a-z]$/.test(event.key)) follow(document.querySelector(`.tabs [data-key="${event.key}"]`));
    else return;
    event.preventDefault();
  });

  document.addEventListener("DOMContentLoaded", () => { if (token()) read(); });
})();
