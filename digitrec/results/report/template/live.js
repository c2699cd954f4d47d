"use strict";
{
  const PAUSE = 2000; // milliseconds between two questions
  const lost = document.getElementById("lost");

  const show = (page) => {
    const scrolled = [".picture", ".scroll"]; // sideways, on a narrow screen
    const places = scrolled.map((name) => document.querySelector(name)?.scrollLeft ?? 0);
    document.querySelector("main").replaceWith(page.querySelector("main"));
    scrolled.forEach((name, i) => document.querySelector(name)?.scrollTo(places[i], 0));
  };

  const ask = async () => {
    const since = encodeURIComponent(document.querySelector("main").dataset.version);
    const answer = await fetch(`?since=${since}`, { cache: "no-store" });
    if (answer.status === 200) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      page.querySelector("main").dataset.version = answer.headers.get("ETag");
      show(page);
    }
    return answer.ok;
  };

  const keepAsking = async () => {
    let answered = true;
    if (!document.hidden) answered = await ask().catch(() => false);
    lost.hidden = answered;
    document.getElementById("last").textContent = document.getElementById("time").textContent;
    setTimeout(keepAsking, PAUSE);
  };
  setTimeout(keepAsking, PAUSE);
}
