"use strict";
// Makes the page's tables sortable, filterable and shorter, and shows the test utterances. Everything from the data goes into the
// page as text, never as markup.

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// The number that a cell begins with ("< 0.001" too), in the unit of its suffix ("1.2 M", "12.3 k"); NaN for words and dashes.
function numberOf(text) {
  const found = /^(?:<\s*)?([+−-]?[\d,.]+)/.exec(text);
  if (!found) return NaN;
  const unit = { k: 1e3, M: 1e6 }[text.slice(found[0].length).trim()] ?? 1;
  return Number(found[1].replace("−", "-").replaceAll(",", "")) * unit;
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const numeric = head.classList.contains("number");
    const button = make("button", { type: "button", textContent: head.textContent });
    head.replaceChildren(button);
    head.ariaSort = "none";
    button.addEventListener("click", () => {
      const order = head.ariaSort === "none" ? (numeric ? "descending" : "ascending")
        : head.ariaSort === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => { other.ariaSort = "none"; });
      head.ariaSort = order;
      const sign = order === "ascending" ? 1 : -1;
      const keyed = [...body.rows].map((row) => {
        const text = row.cells[column].textContent;
        return { row, key: numeric ? numberOf(text) : text };
      });
      keyed.sort((a, b) => {
        if (!numeric) return sign * a.key.localeCompare(b.key);
        // What has no number comes last, whichever the order.
        return Number.isNaN(a.key) - Number.isNaN(b.key) || sign * (a.key - b.key) || 0;
      });
      body.append(...keyed.map((entry) => entry.row));
    });
  });
}

function columns(table) {
  const heads = [...table.tHead.rows[0].cells];
  if (heads.length < 7) return;
  const boxes = make("div");
  heads.forEach((head, column) => {
    if (column === 0) return;
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      for (const row of table.rows) row.cells[column].hidden = !box.checked;
    });
    boxes.append(make("label", {}, box, " ", head.textContent));
  });
  table.parentElement.before(make("details", { className: "columns" }, make("summary", { textContent: "Columns" }), boxes));
}

function filter(condition) {
  const box = condition.querySelector(".filter");
  const [input, output] = [box.querySelector("input"), box.querySelector("output")];
  const keys = [...condition.querySelectorAll("details.from")].map((row) => row.dataset.key);
  box.hidden = false;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (key) => words.every((word) => key.includes(word));
    for (const element of condition.querySelectorAll("[data-key]")) element.hidden = !fits(element.dataset.key);
    output.textContent = words.length ? `${keys.filter(fits).length} of ${keys.length} rows` : "";
  });
}

function pareto(select) {
  const figures = [...select.closest("section").querySelectorAll(".choices > figure")];
  const choose = () => figures.forEach((figure, number) => { figure.hidden = number !== select.selectedIndex; });
  select.closest(".controls").hidden = false;
  select.addEventListener("change", choose);
  choose();
}

// A link into a closed part opens it.
function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const closed = target && target.closest("details");
  if (!closed) return;
  closed.open = true;
  target.scrollIntoView();
  target.focus({ preventScroll: true });
}

const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const ABSENT = 255;
const STEPS = 200;
const PAGE = 25;

function utterances(section, data) {
  const [probabilities, answers] = [bytes(data.probabilities), bytes(data.answers)];
  const count = data.ids.length;
  const fact = (name, item) => data.facts[name]?.names[data.facts[name].codes[item]];
  const answer = (row, item) => answers[row * count + item];
  const label = (item) => fact("label", item);
  const isRight = (row, item) => data.classes[answer(row, item)] === label(item);
  const rights = data.ids.map((_, item) => data.rows.filter((_, row) => isRight(row, item)).length);
  const answered = data.ids.map((_, item) => data.rows.filter((_, row) => answer(row, item) !== ABSENT).length);
  const differ = (item) => new Set(data.rows.map((_, row) => answer(row, item)).filter((a) => a !== ABSENT)).size > 1;

  const choosers = section.querySelector(".choosers");
  const tests = [];
  const chooser = (title, options) => {
    const select = make("select", {}, ...options.map(([name]) => make("option", { textContent: name })));
    select.addEventListener("change", () => show(0));
    choosers.append(make("label", {}, title, select));
    tests.push((item) => options[select.selectedIndex][1](item));
  };
  const any = ["all", () => true];
  for (const [name, { names, codes }] of Object.entries(data.facts)) {
    // Dialogues and recordings are many and their utterances few: the search finds them.
    if (name === "dialogue" || name === "recording" || names.length > 200) continue;
    const order = names.map((_, n) => n).sort((a, b) => names[a].localeCompare(names[b]));
    chooser(name[0].toUpperCase() + name.slice(1), [any, ...order.map((n) => [names[n], (item) => codes[item] === n])]);
  }
  if (!data.multilabel) {
    chooser("Answers", [
      any,
      ["rows disagree", differ],
      ["wrong by all", (item) => rights[item] === 0],
      ["right by all", (item) => rights[item] === answered[item]],
      ...data.rows.map((name, row) => [`wrong by ${name}`, (item) => answer(row, item) !== ABSENT && !isRight(row, item)]),
    ]);
  }
  if (data.clips) chooser("Clip", [any, ["with a clip", (item) => item in data.clips]]);

  const input = section.querySelector("input.words");
  const haystack = data.ids.map((id, item) =>
    [id, data.texts?.[item] ?? "", ...Object.keys(data.facts).map((name) => fact(name, item) ?? "")].join(" ").toLowerCase());
  tests.push((item) => input.value.toLowerCase().split(/\s+/).every((word) => haystack[item].includes(word)));
  input.addEventListener("input", () => show(0));

  function bars(item) {
    const head = make("tr", {}, make("th", { scope: "col", textContent: "method" }),
      ...data.classes.map((name) => {
        const truth = data.multilabel ? label(item).split("+").includes(name) : name === label(item);
        return make("th", { scope: "col", className: `number${truth ? " truth" : ""}`, textContent: name });
      }));
    const rows = data.rows.map((name, row) => {
      const cells = data.classes.map((_, c) => {
        const value = probabilities[(row * count + item) * data.classes.length + c];
        const percent = (100 * value) / STEPS;
        const chosen = data.multilabel ? percent > 50 : answer(row, item) === c;
        const cell = make("td", { className: "number", textContent: value === ABSENT ? "–" : percent.toFixed(1) });
        if (value !== ABSENT) {
          cell.classList.add("bar");
          cell.style.setProperty("--v", percent);
        }
        if (chosen) cell.classList.add("best");
        return cell;
      });
      const there = answer(row, item) !== ABSENT;
      const mark = data.multilabel || !there ? "" : isRight(row, item) ? " ✓" : " ✗";
      const kind = mark === " ✓" ? "right" : "wrong";
      const said = make("span", { className: kind, textContent: mark, title: mark && kind });
      return make("tr", {}, make("th", { scope: "row" }, name, said), ...cells);
    });
    const table = make("table", { className: "data" },
      make("thead", {}, head), make("tbody", {}, ...rows));
    const box = make("div", { className: "wide", tabIndex: 0, ariaLabel: `Probabilities for ${data.ids[item]}` }, table);
    box.setAttribute("role", "region");
    return box;
  }

  function entry(item) {
    const facts = Object.keys(data.facts).filter((name) => name !== "label" && fact(name, item) !== undefined)
      .map((name) => `${name} ${fact(name, item)}`);
    const share = data.multilabel ? [] : [`${rights[item]} of ${answered[item]} right`];
    const summary = make("summary", {}, make("span", { className: "id", textContent: data.ids[item] }),
      ` ${[label(item), ...share, ...facts].join(" · ")}`);
    if (data.texts?.[item]) summary.append(make("span", { className: "said", textContent: data.texts[item] }));
    const details = make("details", { className: "utterance" }, summary);
    details.addEventListener("toggle", () => {
      if (!details.open || details.children.length > 1) return;
      const clip = data.clips?.[item];
      if (clip) {
        const player = make("audio", { controls: true, preload: "none", src: `data:audio/mpeg;base64,${clip}` });
        player.ariaLabel = `Clip of ${data.ids[item]}`;
        details.append(player);
      }
      details.append(bars(item));
    });
    return details;
  }

  const pages = section.querySelector(".pages");
  const [back, place, on] = pages.children;
  let first = 0;
  back.addEventListener("click", () => show(first - PAGE));
  on.addEventListener("click", () => show(first + PAGE));

  function show(from) {
    first = from;
    const found = data.ids.map((_, item) => item).filter((item) => tests.every((test) => test(item)));
    const part = found.slice(first, first + PAGE);
    section.querySelector(".found").replaceChildren(...part.map(entry));
    const rest = data.left_out ? `, the first of ${(count + data.left_out).toLocaleString("en")}` : "";
    section.querySelector(".count").textContent = `${found.length.toLocaleString("en")} of ${count.toLocaleString("en")} utterances${rest}.`;
    pages.hidden = found.length <= PAGE;
    place.textContent = `${first + 1} to ${first + part.length}`;
    back.disabled = first === 0;
    on.disabled = first + PAGE >= found.length;
  }

  const told = [];
  if (!data.texts) told.push("Transcripts aren't in this page: the corpus's licence decides who may have them; --texts puts them in.");
  if (data.clips) {
    const size = (data.clip_bytes / 1e6).toFixed(1);
    told.push(`${Object.keys(data.clips).length} clips (${size} MB) of the utterances that fewest rows get right.`);
  } else told.push(`${told.length ? "Neither are clips" : "Clips aren't in this page"}; --audio N puts those of N utterances in.`);
  if (data.licence) told.push(`Licence of ${data.licence}.`);
  section.querySelector("h3").after(make("p", { className: "notes", textContent: told.join(" ") }));
  section.querySelector(".controls").hidden = false;
  section.querySelector(".no-script").remove();
  show(0);
}

document.querySelectorAll("table.data").forEach((table) => { columns(table); sortable(table); });
document.querySelectorAll("article.condition").forEach(filter);
document.querySelectorAll("select.pareto").forEach(pareto);
const all = JSON.parse(document.getElementById("utterances").textContent);
document.querySelectorAll("section.utterances").forEach((section, number) => utterances(section, all[number]));
addEventListener("hashchange", reveal);
reveal();
