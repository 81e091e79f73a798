// Lets a mouse or the arrow keys read the points of a chart. Without it nothing is lost but comfort:
// every number is also in the table beneath.
"use strict";
for (const plot of document.querySelectorAll(".plot")) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  plot.append(tip);
  let marks = [];
  let at = -1;

  const collect = () => {
    const drawn = [...plot.querySelectorAll("svg")].find((svg) => svg.getClientRects().length);
    marks = drawn ? [...drawn.querySelectorAll("[aria-label]")] : [];
  };
  const centre = (mark) => {
    const box = mark.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const hide = () => {
    plot.querySelector(".here")?.classList.remove("here");
    tip.hidden = true;
    at = -1;
  };
  const show = (index) => {
    hide();
    at = index;
    const mark = marks[at];
    mark.classList.add("here");
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const frame = plot.getBoundingClientRect();
    const [x, y] = centre(mark);
    const half = tip.offsetWidth / 2;
    const left = Math.min(Math.max(x - frame.left, half), Math.max(half, frame.width - half));
    tip.style.left = `${left}px`;
    tip.style.top = `${mark.getBoundingClientRect().top - frame.top}px`;
  };

  plot.addEventListener("pointermove", (event) => {
    collect();
    let nearest = -1;
    let least = 40 ** 2;
    marks.forEach((mark, index) => {
      const box = mark.getBoundingClientRect();
      const dx = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
      const dy = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
      const distance = dx * dx + dy * dy;
      if (distance < least) [nearest, least] = [index, distance];
    });
    if (nearest < 0) hide();
    else if (nearest !== at) show(nearest);
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    collect();
    const last = marks.length - 1;
    const next = {
      ArrowRight: Math.min(at + 1, last),
      ArrowLeft: at < 0 ? last : Math.max(at - 1, 0),
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Escape") hide();
    else if (next !== undefined && last >= 0) {
      event.preventDefault();
      show(next);
    }
  });
}
