# Programs that leak connections, one for each name; the line at fault carries a comment with the name.
#
# usage: leaks.rb NAME   (ports in CORPUS, as server.py prints them)
require 'json'
require 'net/http'
require 'openssl'
require 'socket'

AT = JSON.parse(ENV.fetch('CORPUS'))
KEPT = []
$stdout.sync = true

def pace(seconds = 0.7)
  puts 'ready'
  (0..).each do |n|
    yield n
    sleep seconds
  end
end

class Shelf
  def borrow(book)
    http = Net::HTTP.start('127.0.0.1', AT['http'])
    response = http.request(Net::HTTP::Get.new("/small/books/#{book}", 'Host' => 'books.test')) # LEAK client-per-call
    KEPT << http
    response.code
  end
end

def visit(number)
  http = Net::HTTP.new('127.0.0.1', AT['https'])
  http.use_ssl = true
  http.verify_mode = OpenSSL::SSL::VERIFY_NONE
  http.start
  http.request(Net::HTTP::Get.new("/small/visits/#{number}", 'Host' => 'shop.test')) # LEAK https
  KEPT << http
end

def measure(number)
  wire = TCPSocket.new('127.0.0.1', AT['lines']) # LEAK raw
  wire.puts "measure #{number}"
  wire.gets
  KEPT << wire # END raw
end

def last_words
  wire = TCPSocket.new('127.0.0.1', AT['http']) # LEAK close-wait
  wire.write "GET /last/words HTTP/1.1\r\nHost: words.test\r\n\r\n"
  wire.read
  KEPT << wire # END close-wait
end

def listen(topic)
  Net::HTTP.start('127.0.0.1', AT['http']) do |http|
    http.request(Net::HTTP::Get.new("/events/#{topic}")) do |response| # LEAK events
      response.read_body { |part| KEPT << part.size }
    end # END events
  end
end

def server
  shop = TCPServer.new('127.0.0.1', 0)
  puts "ready #{shop.addr[1]}"
  loop do
    wire = shop.accept # LEAK server
    wire.readpartial(4096)
    wire.write "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    KEPT << wire # END server
  end
end

case ARGV[0]
when 'client-per-call' then shelf = Shelf.new; pace { |n| shelf.borrow(n) }
when 'https' then pace { |n| visit(n) }
when 'raw' then pace { |n| measure(n) }
when 'close-wait' then pace { last_words }
when 'events' then pace { |n| Thread.new { listen(n) } }
when 'server' then server
end
