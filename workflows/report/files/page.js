"use strict";
// Search, filters, groups, paging and the viewer of a report. Reads the JSON in the page and loads nothing except image
// files next to it. Text is inserted as text only: this page never parses markup from data.

(() => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const saved = history.state?.report ?? {}; // what the user had chosen before this page reloaded itself
  let state = saved.state ?? null;
  keepFresh();

  const images = data.images;
  const numImages = images.id.length;
  if (!numImages) return;

  state = {
    view: find("grid") ? "grid" : "gallery", query: "", weight: "", index: "0", sort: "", group: "", values: {}, rule: -1, page: 0,
    ...saved.state,
  };
  const haystacks = images.prompts.map(([id, text, negative, carried]) => [id, text, negative, ...carried].join("\n").toLowerCase());
  const chunks = new Map();
  let matching = []; // numbers of the matching images, in the order in which the viewer steps through them
  let items = []; // the entries of the pages: images of the gallery or rows of the grid

  // ---- filtering ----------------------------------------------------------------------------------------------------

  function matches(number, words) {
    if (state.rule >= 0 && !(images.rules[number] & (1 << state.rule))) return false;
    for (const [group, value] of Object.entries(state.values)) if (groupOf(number, Number(group)) !== Number(value)) return false;
    const text = haystacks[images.prompt[number]];
    return words.every((w) => text.includes(w) || images.seed[number].includes(w) || images.id[number].toLowerCase().includes(w));
  }

  // The position of the image's value among the values of a group.
  function groupOf(number, group) {
    const { carried, values } = data.groups[group];
    return values.indexOf(images.prompts[images.prompt[number]][3][carried]);
  }

  function filter() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const numbers = [...Array(numImages).keys()].filter((number) => matches(number, words));
    if (state.view === "grid") {
      items = sorted(gridRows(new Set(numbers)), rowValue, (row) => row.first);
      matching = items.flatMap((row) => row.cells.filter((number) => number !== undefined));
    } else {
      const shown = numbers.filter((number) => state.weight === "" || images.weight[number] === Number(state.weight));
      items = matching = sorted(shown, (number, key) => columnOf(key)[number], (number) => number);
    }
  }

  // By group, then by the chosen order. Near-duplicates are next to each other unless the user picks another order.
  function sorted(entries, valueOf, numberOf) {
    const sign = state.sort.startsWith("-") ? -1 : 1;
    const key = state.sort.replace(/^-/, "") || (state.rule === data.nearDuplicate ? "group" : "");
    const keys = new Map(entries.map((entry) => [entry, [
      state.group === "" ? 0 : groupOf(numberOf(entry), Number(state.group)), key ? valueOf(entry, key, sign) ?? null : 0, numberOf(entry),
    ]]));
    return entries.sort((first, second) => {
      const [group, value, number] = keys.get(first), [otherGroup, otherValue, otherNumber] = keys.get(second);
      if (group !== otherGroup) return group - otherGroup;
      if ((value === null) !== (otherValue === null)) return value === null ? 1 : -1; // images without a score come last
      return sign * (value - otherValue) || number - otherNumber;
    });
  }

  function columnOf(key) {
    const [kind, position] = key.split(":");
    return kind === "score" ? images.scores[Number(position)] : images[key];
  }

  // A row is sorted by its highest or lowest value, or by how far the last column's value is above the first one's.
  function rowValue(row, key, sign) {
    const [kind, position] = key.split(":");
    if (kind === "difference") {
      const scores = images.scores[data.differences[Number(position)]];
      const [before, after] = [0, 1].map((side) => mean(row.cells.filter((number, column) => number !== undefined && data.sides[column] === side).map((number) => scores[number])));
      return before === null || after === null ? null : after - before;
    }
    const values = row.cells.filter((number) => number !== undefined).map((number) => columnOf(key)[number]).filter((value) => value !== null);
    return values.length ? (sign < 0 ? Math.max(...values) : Math.min(...values)) : null;
  }

  function mean(values) {
    const known = values.filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  }

  // Rows with at least one matching image; the other images of the row are shown faintly next to it.
  function gridRows(matchingNumbers) {
    const rows = new Map();
    for (let number = 0; number < numImages; number++) {
      if (images.row[number] < 0) continue;
      if (state.index !== "" && images.index[number] !== Number(state.index)) continue;
      const key = images.row[number];
      if (!rows.has(key)) rows.set(key, { first: number, cells: Array(data.columns.length).fill(undefined), matching: new Set() });
      const row = rows.get(key);
      row.cells[images.column[number]] = number;
      if (matchingNumbers.has(number)) row.matching.add(number);
    }
    return [...rows.values()].filter((row) => row.matching.size);
  }

  const pageSize = () => (state.view === "grid" ? data.rowsPerPage : data.imagesPerPage);
  const numPages = () => Math.max(1, Math.ceil(items.length / pageSize()));

  // ---- drawing ------------------------------------------------------------------------------------------------------

  function draw() {
    state.page = Math.min(Math.max(state.page, 0), numPages() - 1);
    const start = state.page * pageSize();
    const shown = items.slice(start, start + pageSize());
    const isGrid = state.view === "grid";
    find("gallery").hidden = isGrid;
    if (find("grid")) find("grid").hidden = !isGrid;
    if (isGrid) find("grid").querySelector("tbody").replaceChildren(...withHeadings(shown, (row) => row.first, gridRow, gridHeading));
    else find("gallery").replaceChildren(...withHeadings(shown, (number) => number, galleryItem, galleryHeading));
    drawTools(start, shown.length);
  }

  // A heading before the first entry of each group.
  function withHeadings(entries, numberOf, draw, heading) {
    let before = null;
    return entries.flatMap((entry) => {
      const group = state.group === "" ? before : groupOf(numberOf(entry), Number(state.group));
      const made = group === before ? [draw(entry)] : [heading(group, numberOf), draw(entry)];
      before = group;
      return made;
    });
  }

  function headingParts(group, numberOf) {
    const { carried, values, counts } = data.groups[Number(state.group)];
    const numHere = items.filter((entry) => groupOf(numberOf(entry), Number(state.group)) === group).length;
    const noun = state.view === "grid" ? "rows" : "images";
    const note = `${count(counts[group])} images in the job, ${count(numHere)} ${noun} listed here`;
    return [`${data.carried[carried]}: ${values[group] ?? "(none)"}`, element("small", { textContent: note })];
  }

  const galleryHeading = (group, numberOf) => element("li", { className: "group", dir: "auto" }, ...headingParts(group, numberOf));
  const gridHeading = (group, numberOf) => element("tr", {}, element("th", { className: "group", scope: "rowgroup", colSpan: data.columns.length + 1 }, ...headingParts(group, numberOf)));

  function drawTools(start, numShown) {
    const noun = state.view === "grid" ? "rows" : "images";
    const range = numShown ? `${count(start + 1)}–${count(start + numShown)} of ` : "";
    find("found").textContent = `${range}${count(items.length)} ${noun}`;
    find("pages").textContent = `of ${count(numPages())}`;
    find("page").max = numPages();
    find("page").value = state.page + 1;
    find("previous").disabled = state.page === 0;
    find("next").disabled = state.page === numPages() - 1;
    find("nothing").hidden = items.length > 0;
    document.querySelectorAll(".gallery-only").forEach((tool) => { tool.hidden = state.view === "grid"; });
    document.querySelectorAll(".grid-only").forEach((tool) => { tool.hidden = state.view !== "grid"; });
    document.querySelectorAll(".filter").forEach((tool) => tool.setAttribute("aria-pressed", String(Number(tool.dataset.rule) === state.rule)));
    const numChosen = Object.keys(state.values).length + (state.rule >= 0) + (state.weight !== "") + (state.sort !== "") + (state.group !== "");
    find("num-filters").textContent = numChosen ? ` (${numChosen})` : "";
  }

  function galleryItem(number) {
    const text = images.prompts[images.prompt[number]][1];
    const marks = marksOf(number).map((rule) => element("span", { className: "mark", textContent: rule }));
    const place = `${data.sides ? `${data.columns[images.column[number]]} · ` : `weight ${weightOf(number)} · `}image ${images.index[number]}`;
    const facts = [place, ...scoresOf(number).map(([name, value]) => `${name} ${value}`)].map((textContent) => element("span", { textContent }));
    return element("li", {}, imageLink(number),
      element("p", { className: "prompt", dir: "auto", title: text, textContent: text.slice(0, 200) }), ...captionOf(number),
      element("p", { className: "meta" }, ...facts, ...marks));
  }

  function captionOf(number) {
    const caption = images.caption?.[number];
    return caption ? [element("p", { className: "caption", dir: "auto", title: "What the model sees in the image", textContent: `“${caption}”` })] : [];
  }

  function gridRow(row) {
    const [id, text] = images.prompts[images.prompt[row.first]];
    const head = element("th", { scope: "row" },
      element("p", { className: "prompt", dir: "auto", textContent: text, title: text }),
      element("p", { className: "meta", dir: "auto", textContent: `${id} · image ${images.index[row.first]}` }));
    const others = new Set(row.cells.filter((number) => number !== undefined).map((number) => images.prompts[images.prompt[number]][1]));
    if (others.size > 1) head.append(element("p", { className: "meta mark", textContent: "the prompts differ" }));
    const cells = row.cells.map((number, column) => {
      const cell = element("td", {}, number === undefined ? gone("no image") : imageLink(number));
      cell.dataset.column = data.columns[column];
      if (number === undefined) return cell;
      const facts = [...scoresOf(number).map(([name, value]) => `${name} ${value}`), ...marksOf(number)];
      if (facts.length) cell.append(element("p", { className: "meta", textContent: facts.join(" · ") }));
      cell.append(...captionOf(number));
      if (!row.matching.has(number)) cell.className = "faint";
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
    else link.append(element("img", { src: source, alt: alternative(number), title: alternative(number), className: isLossless(number) ? "pixels" : "" }));
    return link;
  }

  function encoded(number) {
    const chunk = Math.floor(number / data.chunk);
    if (!chunks.has(chunk)) chunks.set(chunk, JSON.parse(find(`thumbnails-${chunk}`).textContent));
    return chunks.get(chunk)[number % data.chunk];
  }

  const isLossless = (number) => encoded(number).startsWith("iVBOR"); // a PNG has every pixel of a small image
  const thumbnail = (number) => encoded(number) && `data:image/${isLossless(number) ? "png" : "webp"};base64,${encoded(number)}`;
  const gone = (text) => element("span", { className: "gone", textContent: text });
  const count = (number) => number.toLocaleString("en");
  const weightOf = (number) => String(images.cfg[number]);
  const rulesOf = (number) => data.rules.filter((_, bit) => images.rules[number] & (1 << bit));
  const marksOf = (number) => data.rules.filter((_, bit) => images.rules[number] & (1 << bit) && !data.typical.includes(bit));
  const scoresOf = (number) => data.scores.map((name, position) => [name, images.scores[position][number]]).filter(([, value]) => value !== null);
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
    find("viewer-caption").textContent = images.caption?.[number] ? `The model sees: “${images.caption[number]}”` : "";
    const facts = [
      ["Image", images.id[number]], ["Prompt id", id], ...(data.sides ? [["Output", data.columns[images.column[number]]]] : []),
      ["Guidance weight", weightOf(number)], ["Seed", images.seed[number]], ["Settings", images.allSettings[images.settings[number]]],
      ...scoresOf(number), ...(images.candidates?.[number] ?? []),
      ...data.carried.map((name, position) => [name, carried[position] ?? ""]),
      ["Saturation", images.mean_saturation[number]], ["Contrast", images.contrast[number]],
      ["Clipped fraction", images.clipped_fraction[number]], ["Entropy", `${images.entropy[number]} bits`],
      ["Quality rules", rulesOf(number).join(", ") || "none"],
    ];
    find("viewer-facts").replaceChildren(...facts.filter(([, value]) => value !== "").flatMap(([name, value]) => [
      element("dt", { dir: "auto", textContent: name }), element("dd", { dir: "auto", textContent: value }),
    ]));
    const link = images.link[number];
    find("viewer-file").replaceChildren(link ? element("a", { href: link, textContent: "Open the file" }) : images.location[number]);
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
    full.className = isLossless(number) ? "pixels" : "";
    full.onerror = () => {
      full.onerror = null;
      full.src = thumbnail(number);
      find("viewer-note").hidden = false;
    };
    full.src = link ?? thumbnail(number) ?? "";
  }

  function showOthers(number) {
    const others = [];
    const isOther = (other) => (images.row[number] < 0 ? images.prompt[other] === images.prompt[number] : images.row[other] === images.row[number] || images.prompt[other] === images.prompt[number]);
    for (let other = 0; other < numImages && others.length < 24; other++) if (isOther(other)) others.push(other);
    find("viewer-others-title").hidden = find("viewer-others").hidden = others.length < 2;
    find("viewer-others").replaceChildren(...others.map((other) => {
      const link = imageLink(other);
      if (other === number) link.setAttribute("aria-current", "true");
      return element("li", {}, link, `${data.sides ? data.columns[images.column[other]] : `weight ${weightOf(other)}`} · image ${images.index[other]}`);
    }));
  }

  function step(distance) {
    const next = matching[matching.indexOf(open) + distance];
    if (next === undefined) return;
    view(next);
    const position = state.view === "grid" ? items.findIndex((row) => row.cells.includes(next)) : matching.indexOf(next);
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
    for (const key of ["query", "weight", "index", "sort", "group"]) find(key)?.addEventListener("input", (event) => change({ [key]: event.target.value }));
    document.querySelectorAll("input[name=view]").forEach((input) => input.addEventListener("change", () => change({ view: input.value })));
    document.querySelectorAll(".value").forEach((select) => select.addEventListener("input", () => {
      const { [select.dataset.group]: _, ...others } = state.values;
      change({ values: select.value === "" ? others : { ...others, [select.dataset.group]: select.value } });
    }));
    document.querySelectorAll(".filter").forEach((button) => button.addEventListener("click", () => {
      const rule = Number(button.dataset.rule);
      change({ rule: rule === state.rule ? -1 : rule });
    }));
    find("options-button").addEventListener("click", () => showOptions(find("options").hidden));
    find("tools").addEventListener("submit", (event) => event.preventDefault());
    find("reset").addEventListener("click", () => {
      change({ query: "", weight: "", values: {}, rule: -1 });
      fillIn();
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

  function showOptions(isShown) {
    find("options").hidden = !isShown;
    find("options-button").setAttribute("aria-expanded", String(isShown));
  }

  // The controls show the state: browsers may restore other input from before a reload.
  function fillIn() {
    for (const key of ["query", "weight", "index", "sort", "group"]) if (find(key)) find(key).value = state[key];
    document.querySelectorAll("input[name=view]").forEach((input) => { input.checked = input.value === state.view; });
    document.querySelectorAll(".value").forEach((select) => { select.value = state.values[select.dataset.group] ?? ""; });
  }

  // A plain click opens the viewer. With a modifier key, the browser follows the link to the file.
  function openOnClick(event) {
    const link = event.target.closest?.(".image");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    view(Number(link.dataset.number));
  }

  // ---- a job that is running: the page reloads itself and stays where the user is ------------------------------------

  function keepFresh() {
    if (!data.live) return;
    const loadedAt = Date.now();
    const unchangedSince = saved.writtenAt === data.live.writtenAt ? saved.unchangedSince : loadedAt;
    const { reloadSeconds, staleSeconds } = data.live;
    setInterval(() => {
      const isStale = Date.now() - unchangedSince > 1000 * staleSeconds;
      find("live-now").hidden = isStale;
      find("live-stale").hidden = !isStale;
      const isBusy = find("viewer").open || document.activeElement?.matches("input[type=search], select");
      if (document.hidden || isBusy || Date.now() - loadedAt < 1000 * reloadSeconds) return;
      const isOpen = !find("options").hidden;
      history.replaceState({ report: { state, isOpen, scroll: [scrollX, scrollY], writtenAt: data.live.writtenAt, unchangedSince } }, "");
      location.reload();
    }, 1000);
  }

  find("tools").hidden = false;
  if (!find("index")) state.index = "";
  fillIn();
  showOptions(saved.isOpen ?? false);
  listen();
  filter();
  draw();
  if (saved.scroll) {
    history.scrollRestoration = "manual";
    scrollTo(...saved.scroll);
  }
})();
