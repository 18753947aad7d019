"use strict";

// The browser of items: filters, search, pages, and both answers with their differences marked. Text of models and
// data sets reaches the page as text nodes only. The data and their fields: reports/html.py.
(() => {
  const holder = document.getElementById("data");
  const browser = document.getElementById("browser");
  if (!holder || !browser) return;
  const data = JSON.parse(holder.textContent);
  const PAGE = 10;
  // A table of word against word: 600 by 600 take a millisecond or two.
  const MOST_WORDS = 600;

  const at = (id) => document.getElementById(id);
  const controls = ["task", "alphabet", "outcome", "slice"].map((name) => at(`filter-${name}`));
  const [task, alphabet, outcome, slice] = controls;
  const search = at("filter-text");
  const list = at("cards");
  let found = data.items;
  let first = 0;

  // Six characters stand for the marks of oʻ, gʻ and ʼ; whoever searches types one of them.
  const folded = (text) => text.toLowerCase().replace(/[‘’ʻʼ`]/g, "'");
  const haystacks = new Map();
  const haystack = (item) => {
    let text = haystacks.get(item);
    if (text === undefined) {
      const said = [item.id, item.prompt, item.tuned_prompt, item.target, item.base, item.tuned];
      text = folded(said.filter((part) => part != null).join("\n"));
      haystacks.set(item, text);
    }
    return text;
  };

  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const fill = (select, names, used) => {
    names.forEach((name, number) => {
      if (!used.has(number)) return;
      const option = make("option", "", name || "(none)");
      option.value = String(number);
      select.append(option);
    });
    // One choice is no choice.
    select.closest(".field").hidden = used.size < 2;
  };

  const used = (field) => new Set(data.items.map((item) => item[field]));

  const matches = () => {
    const wanted = controls.map((select) => (select.value === "" ? null : Number(select.value)));
    const words = folded(search.value).split(/\s+/).filter(Boolean);
    return data.items.filter(
      (item) =>
        (wanted[0] === null || item.task === wanted[0]) &&
        (wanted[1] === null || item.alphabet === wanted[1]) &&
        (wanted[2] === null || item.outcome === wanted[2]) &&
        (wanted[3] === null || item.slice === wanted[3]) &&
        words.every((word) => haystack(item).includes(word)),
    );
  };

  // Which words of two lists are not in their longest common subsequence; null where they are too many.
  const differing = (one, two) => {
    let start = 0;
    let endOne = one.length;
    let endTwo = two.length;
    while (start < endOne && start < endTwo && one[start] === two[start]) start += 1;
    while (endOne > start && endTwo > start && one[endOne - 1] === two[endTwo - 1]) {
      endOne -= 1;
      endTwo -= 1;
    }
    const rows = endOne - start;
    const columns = endTwo - start;
    if (rows > MOST_WORDS || columns > MOST_WORDS) return null;
    const width = columns + 1;
    const longest = new Uint16Array((rows + 1) * width);
    for (let i = rows - 1; i >= 0; i -= 1) {
      for (let j = columns - 1; j >= 0; j -= 1) {
        const here = i * width + j;
        longest[here] =
          one[start + i] === two[start + j]
            ? longest[here + width + 1] + 1
            : Math.max(longest[here + width], longest[here + 1]);
      }
    }
    const only = [new Set(), new Set()];
    let i = 0;
    let j = 0;
    while (i < rows || j < columns) {
      const here = i * width + j;
      if (i < rows && j < columns && one[start + i] === two[start + j]) {
        i += 1;
        j += 1;
      } else if (j >= columns || (i < rows && longest[here + width] >= longest[here + 1])) {
        only[0].add(start + i);
        i += 1;
      } else {
        only[1].add(start + j);
        j += 1;
      }
    }
    return only;
  };

  const words = (text) => text.split(/\s+/).filter(Boolean);

  // The text as it is, runs of words that the other answer lacks in <mark>.
  const marked = (text, only) => {
    const box = make("div", "said");
    let number = 0;
    let mark = null;
    let space = "";
    for (const part of text.split(/(\s+)/)) {
      if (part === "") continue;
      if (/^\s/.test(part)) {
        space = part;
        continue;
      }
      const differs = only.has(number);
      number += 1;
      if (differs && mark) {
        mark.append(space + part);
      } else {
        box.append(space);
        mark = differs ? make("mark", "", part) : null;
        box.append(mark || part);
      }
      space = "";
    }
    return box;
  };

  const missing = (text) => (text === null ? "no answer" : text === "" ? "empty" : null);

  const answers = (item) => {
    const pair = make("div", "pair");
    const only =
      missing(item.base) || missing(item.tuned) ? null : differing(words(item.base), words(item.tuned));
    ["base", "tuned"].forEach((side, number) => {
      const box = make("div", `answer ${side}`);
      const head = make("h4", "", side);
      head.append(make("span", "soft", item[`${side}_score`]));
      box.append(head);
      const none = missing(item[side]);
      if (none) box.append(make("div", "said none", none));
      else if (only) box.append(marked(item[side], only[number]));
      else box.append(make("div", "said", item[side]));
      pair.append(box);
    });
    return pair;
  };

  const passage = (title, text) => {
    const box = make("div", "asked");
    box.append(make("h4", "", title));
    const said = make("div", text ? "said" : "said none", text || "empty");
    // A box that scrolls must be reachable by keyboard.
    said.tabIndex = 0;
    box.append(said);
    return box;
  };

  const card = (item) => {
    const box = make("article", "item");
    const head = make("h3", "", item.id);
    head.append(make("span", `outcome ${data.outcomes[item.outcome][0]}`, data.outcomes[item.outcome][1]));
    const about = [data.tasks[item.task], data.alphabets[item.alphabet], data.slices[item.slice]];
    box.append(head, make("p", "soft", about.filter(Boolean).join(" · ")));
    if (item.tuned_prompt === undefined) {
      box.append(passage("question", item.prompt));
    } else {
      box.append(passage("question, as the base was asked", item.prompt));
      box.append(passage("question, as the tuned one was asked", item.tuned_prompt));
    }
    box.append(passage("wanted", item.target), answers(item));
    return box;
  };

  const show = () => {
    list.replaceChildren(...found.slice(first, first + PAGE).map(card));
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const page = first / PAGE + 1;
    at("count").textContent = `${found.length.toLocaleString("en")} of ${data.items.length.toLocaleString("en")} items`;
    for (const bar of document.querySelectorAll(".pages")) {
      bar.hidden = pages < 2;
      bar.querySelector(".place").textContent = `page ${page} of ${pages}`;
      bar.querySelector(".previous").disabled = page === 1;
      bar.querySelector(".next").disabled = page === pages;
    }
  };

  const filter = () => {
    found = matches();
    first = 0;
    show();
  };

  const turn = (by) => {
    first += by * PAGE;
    show();
    at("count").focus({ preventScroll: true });
    browser.scrollIntoView();
  };

  fill(task, data.tasks, used("task"));
  fill(alphabet, data.alphabets, used("alphabet"));
  fill(outcome, data.outcomes.map((each) => each[1]), used("outcome"));
  fill(slice, data.slices, used("slice"));
  for (const select of controls) select.addEventListener("change", filter);
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 150);
  });
  at("filter-clear").addEventListener("click", () => {
    for (const control of [...controls, search]) control.value = "";
    filter();
  });
  for (const button of document.querySelectorAll(".previous")) button.addEventListener("click", () => turn(-1));
  for (const button of document.querySelectorAll(".next")) button.addEventListener("click", () => turn(1));
  show();
  browser.hidden = false;
})();
