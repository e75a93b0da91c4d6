"use strict";
const form = document.querySelector("form");
const total = form.querySelectorAll("fieldset").length;
const progress = document.getElementById("progress");
let saved = true;
let warned = false;

function chosen() {
  return [...form.querySelectorAll("fieldset")].flatMap((field) => {
    const picked = field.querySelector("input:checked");
    return picked ? [{ pair: Number(field.dataset.pair), question: field.dataset.question, choice: picked.value }] : [];
  });
}

function unanswered() {
  return [...form.querySelectorAll("fieldset")].filter((field) => !field.querySelector("input:checked"));
}

function show() {
  progress.textContent = `${chosen().length} of ${total} questions answered`;
}

form.addEventListener("change", () => { saved = false; warned = false; show(); });

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const open = unanswered();
  if (open.length > 0 && !warned) {
    warned = true;
    progress.textContent = `${open.length} of ${total} questions unanswered; to save without them, press Save answers again`;
    open[0].querySelector("input").focus();
    return;
  }
  const rater = form.elements.rater.value.trim();
  const answers = { kind: form.dataset.kind, study: form.dataset.study, rater, answers: chosen() };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(answers, null, 2) + "\n"], { type: "application/json" }));
  link.download = `answers-${form.dataset.study}-${rater.replace(/[^\w-]+/g, "_")}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
  saved = true;
  show();
});

window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
show();
