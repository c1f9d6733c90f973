// Cut the Chinese parts of a query into the words that the index has, longest first: readers type no spaces.
var splitQuery = (query) => {
  const parts = query.split(/[^\p{Letter}\p{Number}_\p{Emoji_Presentation}]+/gu).filter(Boolean);
  const index = typeof Search !== "undefined" && Search._index;
  if (!index) return parts;
  const known = (word) => word in index.terms || word in index.titleterms;
  const runs = parts.flatMap((part) => part.match(/\p{Script=Han}+|[^\p{Script=Han}]+/gu));
  return runs.flatMap((run) => {
    if (!/\p{Script=Han}/u.test(run) || known(run)) return [run];
    const words = [];
    for (let at = 0; at < run.length; ) {
      let length = Math.min(8, run.length - at);
      while (length > 1 && !known(run.slice(at, at + length))) length--;
      if (length > 1) words.push(run.slice(at, at + length));
      at += length;
    }
    return words.length ? words : [run];
  });
};
