// Live parts. Everything works without this file; with it, pages follow by themselves.
"use strict";
(() => {
  const live = document.getElementById("live");
  const said = document.getElementById("live-state");
  const say = (text, stale) => {
    if (said) { said.textContent = text; said.className = stale ? "stale" : ""; }
    if (live) live.classList.toggle("stale-part", stale);
  };
  // Never pull the ground away under someone who selects text, reads a graph or types.
  const busy = () => {
    const chosen = document.getSelection();
    return (chosen && !chosen.isCollapsed && live.contains(chosen.anchorNode)) || live.querySelector(":focus, .dragging") !== null;
  };
  const put = (html) => {
    const open = new Set([...live.querySelectorAll("details[open]")].map((d) => d.id));
    const part = new DOMParser().parseFromString(html, "text/html");
    const fresh = part.getElementById("live") || part.body;
    const pill = part.getElementById("pill-now");
    if (pill) { document.getElementById("pill").replaceChildren(pill.content.cloneNode(true)); pill.remove(); }
    live.replaceChildren(...fresh.childNodes);
    for (const d of live.querySelectorAll("details")) if (d.id && open.has(d.id)) d.open = true;
    graphs();
  };
  const follow = () => {
    if (live.dataset.stream) {
      const stream = new EventSource(live.dataset.stream);
      stream.addEventListener("part", (e) => { say("live", false); if (!busy()) put(e.data); });
      stream.onerror = () => say("connection lost; trying again", true);
      return;
    }
    const seconds = Number(live.dataset.refresh);
    if (!seconds) return;
    const again = async () => {
      if (!document.hidden && !busy()) {
        try {
          const answer = await fetch(location.href, { headers: { "x-live": "1" }, redirect: "error" });
          if (!answer.ok) throw new Error(String(answer.status));
          const html = await answer.text();
          if (!busy()) put(html);
          say("live", false);
        } catch { say("connection lost; trying again", true); }
      }
      setTimeout(again, seconds * 1000);
    };
    setTimeout(again, seconds * 1000);
  };

  // Graph: read values under the pointer, drag to zoom.
  const SVG = "http://www.w3.org/2000/svg";
  const shape = (name, attributes) => {
    const s = document.createElementNS(SVG, name);
    for (const [k, v] of Object.entries(attributes)) s.setAttribute(k, v);
    return s;
  };
  const graphs = () => {
    for (const svg of document.querySelectorAll("svg[data-from]")) {
      const d = svg.dataset, left = Number(d.left), right = Number(d.right), from = Number(d.from), to = Number(d.to);
      const read = svg.parentNode.querySelector(".read");
      const rows = [...document.querySelectorAll("#values tbody tr")].map((r) => ({ at: Number(r.dataset.at), text: r.dataset.text }));
      const line = svg.appendChild(shape("line", { class: "cursor", y1: d.top, y2: d.bottom, x1: -9, x2: -9 }));
      const box = svg.appendChild(shape("rect", { class: "drag", y: d.top, height: d.bottom - d.top, width: 0, x: 0 }));
      const where = (e) => {
        const r = svg.getBoundingClientRect();
        const x = ((e.clientX - r.left) / r.width) * svg.viewBox.baseVal.width;
        return Math.min(right, Math.max(left, x));
      };
      const time = (x) => from + ((x - left) / (right - left)) * (to - from);
      let start = null;
      svg.addEventListener("pointerdown", (e) => { start = where(e); svg.classList.add("dragging"); svg.setPointerCapture(e.pointerId); });
      svg.addEventListener("pointermove", (e) => {
        const x = where(e), t = time(x);
        line.setAttribute("x1", x); line.setAttribute("x2", x);
        let best = null;
        for (const row of rows) if (row.at <= t && (!best || row.at > best.at)) best = row;
        if (read) read.textContent = best ? best.text : "";
        if (start !== null) { box.setAttribute("x", Math.min(start, x)); box.setAttribute("width", Math.abs(x - start)); }
      });
      svg.addEventListener("pointerup", (e) => {
        const x = where(e), a = Math.round(time(Math.min(start ?? x, x))), b = Math.round(time(Math.max(start ?? x, x)));
        svg.classList.remove("dragging"); box.setAttribute("width", 0);
        if (start !== null && Math.abs(x - start) > 6 && b - a >= 60) location.search = `?from=${a}&to=${b}`;
        start = null;
      });
      svg.addEventListener("pointerleave", () => { line.setAttribute("x1", -9); line.setAttribute("x2", -9); if (read) read.textContent = ""; });
    }
  };

  // Keys: g then o, c, a, e; / for search.
  let g = 0;
  const ways = { o: "/", c: "/cluster", a: "/agents", e: "/events" };
  addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName)) return;
    if (e.key === "/") { const s = document.querySelector("input[type=search]"); if (s) { e.preventDefault(); s.focus(); s.select(); } else location.href = "/agents"; return; }
    if (e.key === "g") { g = e.timeStamp; return; }
    if (e.timeStamp - g < 1500 && ways[e.key]) location.href = ways[e.key];
    g = 0;
  });
  graphs();
  if (live) follow();
})();
