"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const articles = [...document.querySelectorAll("article")];
  const links = new Map([...document.querySelectorAll("#list a")].map((link) => [link.hash.slice(1), link]));
  const texts = new Map(articles.map((article) => [article, article.textContent.toLowerCase()]));
  let shown = [], current = null;

  const show = (article, focus) => {
    current = article;
    for (const each of articles) each.hidden = each !== article;
    for (const [id, link] of links) link.toggleAttribute("aria-current", article !== null && id === article.id);
    at("none").hidden = article !== null;
    if (article === null) return;
    links.get(article.id).scrollIntoView({ block: "nearest" });
    if (focus) {
      history.replaceState(null, "", "#" + article.id);
      scrollTo(0, 0);
      article.focus({ preventScroll: true });
    }
    mark();
  };

  const wanted = () => at("words").value.toLowerCase().split(/\s+/).filter(Boolean);

  const mark = () => {
    if (!window.Highlight) return;
    const ranges = [], words = wanted();
    const walker = document.createTreeWalker(current, NodeFilter.SHOW_TEXT);
    while (words.length && walker.nextNode()) {
      const text = walker.currentNode.data.toLowerCase();
      if (text.length !== walker.currentNode.data.length) continue; // places of the two would differ
      for (const word of words)
        for (let start = text.indexOf(word); start >= 0; start = text.indexOf(word, start + word.length)) {
          const range = new Range();
          range.setStart(walker.currentNode, start);
          range.setEnd(walker.currentNode, start + word.length);
          ranges.push(range);
        }
    }
    CSS.highlights.set("words", new Highlight(...ranges));
  };

  const filter = () => {
    const words = wanted(), status = at("status").value, split = at("split").value, key = at("sort").value;
    shown = articles.filter((article) =>
      (!status || article.dataset.status === status) && (!split || article.dataset.split === split)
      && words.every((word) => texts.get(article).includes(word)));
    shown.sort((a, b) => a.dataset[key] - b.dataset[key] || a.dataset.number - b.dataset.number);
    const visible = new Set(shown.map((article) => article.id));
    for (const [id, link] of links) link.parentElement.hidden = !visible.has(id);
    at("list").append(...shown.map((article) => links.get(article.id).parentElement));
    at("count").value = `${shown.length} of ${articles.length}`;
    show(shown.includes(current) ? current : shown[0] ?? null, false);
  };

  const step = (by) => {
    const next = shown[shown.indexOf(current) + by];
    if (next) show(next, true);
  };

  const whole = () => document.body.classList.toggle("whole", at("whole").checked);

  const keys = {
    j: () => step(1),
    k: () => step(-1),
    "/": () => at("words").focus(),
    w: () => { at("whole").checked = !at("whole").checked; whole(); },
    p: () => {
      const prompts = current ? [...current.querySelectorAll("details")] : [];
      const open = prompts.some((each) => !each.open);
      for (const each of prompts) each.open = open;
    },
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input[type=search], select");
    if (event.key === "Escape" && typing) event.target.blur();
    else if (!typing && Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  for (const id of ["words", "status", "split", "sort"]) at(id).addEventListener("input", filter);
  at("whole").addEventListener("input", whole);
  at("tools").addEventListener("submit", (event) => event.preventDefault());
  at("list").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link) return;
    event.preventDefault();
    show(at(link.hash.slice(1)), true);
  });
  current = articles.find((article) => "#" + article.id === location.hash) ?? null;
  filter();
})();
