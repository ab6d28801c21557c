// An order and its job in one transaction, from Node.js with plain SQL.
//
//     npm install mysql2
//     node orders.mjs mysql://user:password@host:3306/fairlog ITEM…

import process from "node:process";
import mysql from "mysql2/promise";

const [url, ...items] = process.argv.slice(2);
const connection = await mysql.createConnection(url);
await connection.query(
  "CREATE TABLE IF NOT EXISTS orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, item VARCHAR(100) NOT NULL)",
);

async function placeOrder(item) {
  await connection.beginTransaction();
  try {
    const [order] = await connection.execute("INSERT INTO orders (item) VALUES (?)", [item]);
    const payload = JSON.stringify({ order: order.insertId, item });
    await connection.execute("INSERT INTO outbox (user_id, kind, payload) VALUES (?, ?, ?)", [
      "shop",
      "echo",
      payload,
    ]);
    if (item === "") throw new Error("An order needs an item.");
    await connection.commit();
    console.log(`order ${order.insertId}: ${item}`);
  } catch (error) {
    await connection.rollback(); // and so there is no job either
    console.error(error.message);
  }
}

try {
  for (const item of items) await placeOrder(item);
} finally {
  await connection.end();
}
