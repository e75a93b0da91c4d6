"use strict";
const form = document.querySelector("form");
const total = form.querySelectorAll("fieldset").length;
const progress = document.getElementById("progress");
let saved = true;

function chosen() {
  return [...form.querySelectorAll("fieldset")].flatMap((field) => {
    const picked = field.querySelector("input:checked");
    return picked ? [{ pair: Number(field.dataset.pair), question: field.dataset.question, choice: picked.value }] : [];
  });
}

function show() {
  progress.textContent = `${chosen().length} of ${total} questions answered`;
}

form.addEventListener("change", () => { saved = false; show(); });

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const rater = form.elements.rater.value.trim();
  const answers = { kind: form.dataset.kind, study: form.dataset.study, rater, answers: chosen() };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(answers, null, 2) + "\n"], { type: "application/json" }));
  link.download = `answers-${form.dataset.study}-${rater.replace(/[^\w-]+/g, "_")}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
  saved = true;
});

window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
show();
