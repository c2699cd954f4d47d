"use strict";
{
  const PAUSE = 2000; // milliseconds between two questions
  const lost = document.getElementById("lost");

  const show = (page) => document.querySelector("main").replaceWith(page.querySelector("main"));

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
