"use strict";
// Search, filters, paging and the viewer of a report. Reads the JSON in the page and loads nothing except image files
// next to it. Text is inserted as text only: this page never parses markup from data.

(() => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const images = data.images;
  const numImages = images.id.length;
  if (!numImages) return;

  const state = { view: find("sweep") ? "sweep" : "gallery", query: "", weight: "", index: "0", sort: "", rule: -1, page: 0 };
  const haystacks = images.prompts.map((texts) => texts.join("\n").toLowerCase());
  const chunks = new Map();
  let matching = []; // numbers of the matching images, in the order in which the viewer steps through them
  let items = []; // the entries of the pages: images of the gallery or rows of the sweep

  // ---- filtering ----------------------------------------------------------------------------------------------------

  function matches(number, words) {
    if (state.rule >= 0 && !(images.rules[number] & (1 << state.rule))) return false;
    const text = haystacks[images.prompt[number]];
    return words.every((w) => text.includes(w) || images.seed[number].includes(w) || images.id[number].toLowerCase().includes(w));
  }

  function filter() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const numbers = [...Array(numImages).keys()].filter((number) => matches(number, words));
    if (state.view === "sweep") {
      items = sweepRows(new Set(numbers));
      matching = items.flatMap((row) => row.cells.filter((number) => number !== undefined));
    } else {
      items = matching = sorted(numbers.filter((number) => state.weight === "" || images.weight[number] === Number(state.weight)));
    }
  }

  // Near-duplicates are shown next to each other unless the user picks another order.
  function sorted(numbers) {
    const byGroup = state.rule === data.nearDuplicate;
    if (!state.sort) return byGroup ? numbers.sort((a, b) => images.group[a] - images.group[b] || a - b) : numbers;
    const [column, sign] = state.sort.startsWith("-") ? [images[state.sort.slice(1)], -1] : [images[state.sort], 1];
    return numbers.sort((a, b) => sign * (column[a] - column[b]) || a - b);
  }

  // Rows with at least one matching image; the other images of the row are shown faintly next to it.
  function sweepRows(matchingNumbers) {
    const rows = new Map();
    for (let number = 0; number < numImages; number++) {
      const column = data.sweep.indexOf(images.weight[number]);
      if (column < 0 || images.extra[number]) continue;
      if (state.index !== "" && images.index[number] !== Number(state.index)) continue;
      const key = `${images.prompt[number]} ${images.index[number]}`;
      if (!rows.has(key)) rows.set(key, { first: number, cells: Array(data.sweep.length).fill(undefined), matching: new Set() });
      const row = rows.get(key);
      row.cells[column] = number;
      if (matchingNumbers.has(number)) row.matching.add(number);
    }
    return [...rows.values()].filter((row) => row.matching.size);
  }

  const pageSize = () => (state.view === "sweep" ? data.rowsPerPage : data.imagesPerPage);
  const numPages = () => Math.max(1, Math.ceil(items.length / pageSize()));

  // ---- drawing ------------------------------------------------------------------------------------------------------

  function draw() {
    state.page = Math.min(Math.max(state.page, 0), numPages() - 1);
    const start = state.page * pageSize();
    const shown = items.slice(start, start + pageSize());
    const isSweep = state.view === "sweep";
    find("gallery").hidden = isSweep;
    if (find("sweep")) find("sweep").hidden = !isSweep;
    if (isSweep) find("sweep").querySelector("tbody").replaceChildren(...shown.map(sweepRow));
    else find("gallery").replaceChildren(...shown.map(galleryItem));
    drawTools(start, shown.length);
  }

  function drawTools(start, numShown) {
    const noun = state.view === "sweep" ? "rows" : "images";
    const range = numShown ? `${count(start + 1)}–${count(start + numShown)} of ` : "";
    find("found").textContent = `${range}${count(items.length)} ${noun}`;
    find("pages").textContent = `of ${count(numPages())}`;
    find("page").max = numPages();
    find("page").value = state.page + 1;
    find("previous").disabled = state.page === 0;
    find("next").disabled = state.page === numPages() - 1;
    find("nothing").hidden = items.length > 0;
    document.querySelectorAll(".gallery-only").forEach((tool) => { tool.hidden = state.view === "sweep"; });
    document.querySelectorAll(".sweep-only").forEach((tool) => { tool.hidden = state.view !== "sweep"; });
    document.querySelectorAll(".filter").forEach((tool) => tool.setAttribute("aria-pressed", String(Number(tool.dataset.rule) === state.rule)));
  }

  function galleryItem(number) {
    const text = images.prompts[images.prompt[number]][1];
    const marks = rulesOf(number).map((rule) => element("span", { className: "mark", textContent: rule }));
    const caption = element("span", { textContent: `weight ${weightOf(number)} · image ${images.index[number]}` });
    return element("li", {}, imageLink(number),
      element("p", { className: "prompt", dir: "auto", title: text, textContent: text.slice(0, 200) }),
      element("p", { className: "meta" }, caption, ...marks));
  }

  function sweepRow(row) {
    const [id, text] = images.prompts[images.prompt[row.first]];
    const head = element("th", { scope: "row" },
      element("p", { className: "prompt", dir: "auto", textContent: text, title: text }),
      element("p", { className: "meta", dir: "auto", textContent: `${id} · image ${images.index[row.first]}` }));
    const cells = row.cells.map((number, column) => {
      const cell = element("td", {}, number === undefined ? gone("no image") : imageLink(number));
      cell.dataset.weight = `weight ${data.weights[data.sweep[column]]}`;
      if (number !== undefined && !row.matching.has(number)) cell.className = "faint";
      return cell;
    });
    return element("tr", {}, head, ...cells);
  }

  function imageLink(number) {
    const link = element("a", { className: "image" });
    link.dataset.number = number;
    link.href = images.link[number] ?? "#images";
    if (!images.link[number]) link.role = "button";
    const source = thumbnail(number);
    if (!source) link.append(gone("missing or unreadable file"));
    else link.append(element("img", { src: source, alt: alternative(number), title: alternative(number) }));
    return link;
  }

  function thumbnail(number) {
    const chunk = Math.floor(number / data.chunk);
    if (!chunks.has(chunk)) chunks.set(chunk, JSON.parse(find(`thumbnails-${chunk}`).textContent));
    const text = chunks.get(chunk)[number % data.chunk];
    return text && `data:image/webp;base64,${text}`;
  }

  const gone = (text) => element("span", { className: "gone", textContent: text });
  const count = (number) => number.toLocaleString("en");
  const weightOf = (number) => String(images.cfg[number]);
  const rulesOf = (number) => data.rules.filter((_, bit) => images.rules[number] & (1 << bit));
  const alternative = (number) => `${images.prompts[images.prompt[number]][1]} (weight ${weightOf(number)}, seed ${images.seed[number]})`;

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // ---- the viewer: one large image with its manifest row ------------------------------------------------------------

  let open = 0;

  function view(number) {
    open = number;
    const [id, text, negative, carried] = images.prompts[images.prompt[number]];
    find("viewer-prompt").textContent = text;
    find("viewer-negative").textContent = negative && `Negative prompt: ${negative}`;
    const facts = [
      ["Image", images.id[number]], ["Prompt id", id], ["Guidance weight", weightOf(number)],
      ["Seed", images.seed[number]], ["Settings", images.allSettings[images.settings[number]]],
      ["Saturation", images.mean_saturation[number]], ["Contrast", images.contrast[number]],
      ["Clipped fraction", images.clipped_fraction[number]], ["Entropy", `${images.entropy[number]} bits`],
      ["Quality rules", rulesOf(number).join(", ") || "none"], ["Carried columns", carried],
    ];
    find("viewer-facts").replaceChildren(...facts.filter(([, value]) => value !== "").flatMap(([name, value]) => [
      element("dt", { textContent: name }), element("dd", { dir: "auto", textContent: value }),
    ]));
    const link = images.link[number];
    find("viewer-file").replaceChildren(link ? element("a", { href: link, textContent: "Open the file" }) : `In a pack: ${images.location[number]}`);
    showFull(number, link);
    showOthers(number);
    const position = matching.indexOf(number);
    find("before").disabled = position <= 0;
    find("after").disabled = position < 0 || position === matching.length - 1;
    if (!find("viewer").open) find("viewer").showModal();
  }

  function showFull(number, link) {
    const full = find("full");
    find("viewer-note").hidden = true;
    full.alt = alternative(number);
    full.onerror = () => {
      full.onerror = null;
      full.src = thumbnail(number);
      find("viewer-note").hidden = false;
    };
    full.src = link ?? thumbnail(number) ?? "";
  }

  function showOthers(number) {
    const others = [];
    for (let other = 0; other < numImages && others.length < 24; other++) if (images.prompt[other] === images.prompt[number]) others.push(other);
    find("viewer-others-title").hidden = find("viewer-others").hidden = others.length < 2;
    find("viewer-others").replaceChildren(...others.map((other) => {
      const link = imageLink(other);
      if (other === number) link.setAttribute("aria-current", "true");
      return element("li", {}, link, `weight ${weightOf(other)} · image ${images.index[other]}`);
    }));
  }

  function step(distance) {
    const next = matching[matching.indexOf(open) + distance];
    if (next === undefined) return;
    view(next);
    const position = state.view === "sweep" ? items.findIndex((row) => row.cells.includes(next)) : matching.indexOf(next);
    turnTo(Math.floor(position / pageSize()));
  }

  function turnTo(page) {
    if (page === state.page) return;
    state.page = page;
    draw();
  }

  // ---- user input ---------------------------------------------------------------------------------------------------

  function change(changes) {
    Object.assign(state, { page: 0 }, changes);
    filter();
    draw();
  }

  function turn(page) {
    turnTo(Math.min(Math.max(page, 0), numPages() - 1));
    find("page").value = state.page + 1;
    if (find("images").getBoundingClientRect().top < 0) find("images").scrollIntoView();
  }

  function listen() {
    for (const key of ["query", "weight", "index", "sort"]) find(key)?.addEventListener("input", (event) => change({ [key]: event.target.value }));
    document.querySelectorAll("input[name=view]").forEach((input) => input.addEventListener("change", () => change({ view: input.value })));
    document.querySelectorAll(".filter").forEach((button) => button.addEventListener("click", () => {
      const rule = Number(button.dataset.rule);
      change({ rule: rule === state.rule ? -1 : rule });
    }));
    find("tools").addEventListener("submit", (event) => event.preventDefault());
    find("reset").addEventListener("click", () => {
      for (const key of ["query", "weight"]) if (find(key)) find(key).value = "";
      change({ query: "", weight: "", rule: -1 });
    });
    find("previous").addEventListener("click", () => turn(state.page - 1));
    find("next").addEventListener("click", () => turn(state.page + 1));
    find("page").addEventListener("change", (event) => turn(Number(event.target.value) - 1));
    find("before").addEventListener("click", () => step(-1));
    find("after").addEventListener("click", () => step(1));
    document.addEventListener("click", openOnClick);
    find("viewer").addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    });
    find("viewer").addEventListener("close", () => {
      document.querySelector(`main .image[data-number="${open}"]`)?.focus({ preventScroll: true });
    });
    find("viewer").addEventListener("click", (event) => { if (event.target === find("viewer")) find("viewer").close(); });
  }

  // A plain click opens the viewer. With a modifier key, the browser follows the link to the file.
  function openOnClick(event) {
    const link = event.target.closest?.(".image");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    view(Number(link.dataset.number));
  }

  find("tools").hidden = false;
  find("tools").reset(); // browsers may restore the input from before a reload
  if (!find("index")) state.index = "";
  listen();
  change({});
})();
