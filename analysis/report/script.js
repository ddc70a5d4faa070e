"use strict";
(() => {
  const runs = JSON.parse(document.getElementById("scene-data").textContent);
  const names = JSON.parse(document.getElementById("metric-names").textContent);
  const sceneSlider = document.getElementById("scene");
  const viewSlider = document.getElementById("view");
  const panels = [...document.querySelectorAll(".panel[data-run]")].filter((panel) => panel.querySelector("img[data-role]"));
  const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

  // The view of a run that is shown now; runs may have fewer scenes or views than others.
  function shown(panel) {
    const scenes = runs[Number(panel.dataset.run)];
    const scene = scenes[Number(sceneSlider.value) - 1];
    if (!scene) return null;
    const view = scene.views[Math.min(viewSlider ? Number(viewSlider.value) : 1, scene.views.length) - 1];
    return { scene, view };
  }

  function image(panel, role) {
    return panel.querySelector(`img[data-role="${role}"]`);
  }

  // Show one slot alone in place of the reconstruction, or with null the whole again, or the slot that is held.
  function isolate(panel, slot) {
    const now = shown(panel);
    if (!now) return;
    if (slot === null && panel.dataset.held !== undefined) slot = Number(panel.dataset.held);
    const alone = slot !== null;
    panel.toggleAttribute("data-alone", alone);
    panel.querySelectorAll(".slot").forEach((button, k) => button.classList.toggle("alone", k === slot));
    const picture = image(panel, "reconstruction");
    picture.src = alone ? now.view.slots[slot].src : now.view.reconstruction;
    picture.alt = alone ? `slot ${slot + 1} alone` : "reconstruction";
    panel.querySelector('[data-caption="reconstruction"]').textContent = picture.alt;
  }

  function hold(panel, slot) {
    if (slot === null || panel.dataset.held === String(slot)) delete panel.dataset.held;
    else panel.dataset.held = String(slot);
    panel.querySelectorAll(".slot").forEach((button, k) => {
      button.setAttribute("aria-pressed", String(panel.dataset.held === String(k)));
    });
  }

  function show(panel) {
    const now = shown(panel);
    panel.hidden = !now;
    if (!now) return;
    for (const role of ["observation", "segmentation"]) image(panel, role).src = now.view[role];
    if (now.view.truth) image(panel, "truth").src = now.view.truth;
    panel.querySelectorAll(".slot").forEach((button, k) => {
      const slot = now.view.slots[k];
      button.querySelector("img").src = slot.src;
      button.style.setProperty("--slot", slot.colour);
      button.querySelector(".slot-says").textContent = `${percent(slot.share)}, KL ${now.view.kl[k]}`;
      button.setAttribute(
        "aria-label", `slot ${k + 1}: ${percent(slot.share)} of the pixels, KL ${now.view.kl[k]} nats`);
    });
    const metrics = now.view.metrics;
    const told = names.filter(([key]) => key in metrics).map(([key, name]) => `${name} ${Number(metrics[key].toPrecision(3))}`);
    if (now.scene.objects !== null) told.unshift(`${now.scene.objects} objects`);
    panel.querySelector(".says").textContent = told.join(", ");
    isolate(panel, null);
  }

  function update() {
    const count = `${sceneSlider.value} of ${sceneSlider.max}`;
    document.getElementById("scene-name").textContent = count;
    sceneSlider.setAttribute("aria-valuetext", `scene ${count}`);
    panels.forEach(show);
    if (viewSlider) {
      const names = panels.map((panel) => shown(panel)?.view.name).filter(Boolean);
      document.getElementById("view-name").textContent = names[0] ?? "";
      viewSlider.setAttribute("aria-valuetext", names[0] ?? "");
    }
  }

  if (!sceneSlider) return;
  for (const panel of panels) {
    panel.querySelectorAll(".slot").forEach((button, k) => {
      for (const start of ["pointerenter", "focus"]) button.addEventListener(start, () => isolate(panel, k));
      for (const end of ["pointerleave", "blur"]) button.addEventListener(end, () => isolate(panel, null));
      button.addEventListener("click", () => { hold(panel, k); isolate(panel, null); });
    });
    for (const role of ["observation", "reconstruction", "segmentation", "truth"]) {
      const picture = image(panel, role);
      if (!picture) continue;  // no true masks
      picture.addEventListener("pointermove", (event) => {
        const { labels, size: [height, width] } = shown(panel).view;
        const box = picture.getBoundingClientRect();
        const place = (position, length, count) => Math.min(count - 1, Math.max(0, Math.floor(position / length * count)));
        const row = place(event.clientY - box.top, box.height, height);
        const column = place(event.clientX - box.left, box.width, width);
        isolate(panel, parseInt(labels[row * width + column], 36));
      });
      picture.addEventListener("pointerleave", () => isolate(panel, null));
    }
    panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { hold(panel, null); isolate(panel, null); }
    });
  }
  document.querySelectorAll("[data-goto]").forEach((button) => button.addEventListener("click", () => {
    sceneSlider.value = button.dataset.goto;
    update();
    sceneSlider.scrollIntoView({ block: "center" });
    sceneSlider.focus({ preventScroll: true });
  }));
  sceneSlider.addEventListener("input", update);
  viewSlider?.addEventListener("input", update);
  update();
})();
